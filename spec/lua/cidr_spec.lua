local cidr = require "sockdrawer.cidr"

local function contains(network, address) return cidr.contains(assert(cidr.parse(network)), address) end

describe("a network", function()
  it("holds the addresses that share its first bits", function()
    assert.is_true(contains("10.0.0.0/8", "10.255.3.4"))
    assert.is_false(contains("10.0.0.0/8", "11.0.0.1"))
    assert.is_true(contains("192.168.1.128/25", "192.168.1.200"))
    assert.is_false(contains("192.168.1.128/25", "192.168.1.100"))
    assert.is_true(contains("0.0.0.0/0", "1.2.3.4"))
    assert.is_true(contains("2001:db8::/33", "2001:db8:7fff::1"))
    assert.is_false(contains("2001:db8::/33", "2001:db8:8000::1"))
    assert.is_true(contains("::/0", "::1"))
  end)

  it("may be a single address", function()
    assert.is_true(contains("127.0.0.1", "127.0.0.1"))
    assert.is_false(contains("127.0.0.1", "127.0.0.2"))
    assert.is_true(contains("fe80::1", "fe80::1%eth0"))
  end)

  it("keeps the families apart, but knows mapped addresses", function()
    assert.is_false(contains("0.0.0.0/0", "::1"))
    assert.is_false(contains("::/0", "127.0.0.1"))
    assert.is_true(contains("127.0.0.0/8", "::ffff:127.0.0.1"))
  end)

  it("says what is none", function()
    for text in ("x 1.2.3 1.2.3.256 1.2.3.4/33 1:2:3 1::2::3 ::: :1::2 12345:: ::/129"):gmatch "%S+" do
      local network, err = cidr.parse(text)
      assert.is_nil(network, text)
      assert.is_string(err)
    end
  end)
end)
