--- Reads source files: regular ones only, of a bounded size, and never waiting for a FIFO.

local bit = require "bit"
local ffi = require "ffi"

local M = {}

--- No honest source file is larger.
M.LARGEST = 16 * 1024 * 1024

-- io.open would wait for a writer at a FIFO, so the file is opened by hand.
ffi.cdef [[
  int open(const char *path, int flags, ...);
  long read(int fd, void *buffer, size_t count);
  long lseek(int fd, long offset, int whence);
  int close(int fd);
  char *strerror(int number);
]]

local NOT_WAITING = bit.bor(0x800, 0x80000) -- O_NONBLOCK | O_CLOEXEC
local SEEK_SET, SEEK_END = 0, 2
local EINTR, ENOENT, ENOTDIR, ESPIPE = 4, 2, 20, 29

local function failure(path)
  return ("cannot read %s: %s"):format(path, ffi.string(ffi.C.strerror(ffi.errno())))
end

-- The size may lie (/proc) or change under us, so it is only a first guess; the end is where read says so.
local function read_all(fd, path)
  local parts, total = {}, 0
  local chunk = ffi.new("uint8_t[?]", 65536)
  while true do
    local n = tonumber(ffi.C.read(fd, chunk, 65536))
    if n == 0 then return table.concat(parts) end
    if n < 0 and ffi.errno() ~= EINTR then return nil, failure(path) end
    if n > 0 then
      total = total + n
      if total > M.LARGEST then return nil, ("cannot read %s: larger than %d bytes"):format(path, M.LARGEST) end
      parts[#parts + 1] = ffi.string(chunk, n)
    end
  end
end

-- Only what is a stream has no position at all; files of /proc merely have no end.
local function read_regular(fd, path)
  if ffi.C.lseek(fd, 0, SEEK_END) < 0 and ffi.errno() == ESPIPE then
    return nil, ("cannot read %s: not a regular file"):format(path)
  end
  ffi.C.lseek(fd, 0, SEEK_SET)
  return read_all(fd, path)
end

--- The text of a file. A file that does not exist answers nil alone; every other failure says why.
---@param path string
---@return string|nil text
---@return string|nil err
function M.read(path)
  if path:find "%z" then return nil, "cannot read a path with a NUL byte in it" end
  local fd = ffi.C.open(path, NOT_WAITING)
  if fd < 0 then
    local err = ffi.errno()
    if err == ENOENT or err == ENOTDIR then return nil end
    return nil, failure(path)
  end
  local text, why = read_regular(fd, path)
  ffi.C.close(fd)
  return text, why
end

--- The first file of a module path like "./?.lua;./?/init.lua" that `name` can be.
---@param name string dots are folders
---@param templates string
---@param reader fun(path: string): string|nil, string|nil
---@return string|nil path
---@return string text_or_err the text, or why nothing was found: what was tried, or what is wrong with a file
---@return boolean|nil broken a file is there and cannot be used
function M.search(name, templates, reader)
  local file, tried = name:gsub("%.", "/"), {}
  for template in templates:gmatch "[^;]+" do
    local path = template:gsub("%?", (file:gsub("%%", "%%%%")))
    local text, why = reader(path)
    if text then return path, text end
    if why then return nil, why, true end
    tried[#tried + 1] = ("no file '%s'"):format(path)
  end
  return nil, table.concat(tried, ", ")
end

--- The folder of a file: "." for a bare name.
---@param path string
---@return string
function M.folder(path)
  local folder = path:match "^(.*)/[^/]*$"
  if folder == nil then return "." end
  return folder ~= "" and folder or "/"
end

return M
