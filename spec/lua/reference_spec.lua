-- docs/reference.md is made from tables; this notices when they have moved on.
describe("the reference of options and verbs", function()
  it("is up to date (make reference)", function()
    local made = io.popen("luajit scripts/write-reference.lua"):read "*a"
    local kept = io.open("docs/reference.md"):read "*a"
    assert.is_true(made == kept, "docs/reference.md is out of date: run `make reference`")
  end)
end)
