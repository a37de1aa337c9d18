-- PUTs of one value: to random keys, or with CASES_COLD=1 each to a key that nobody has written before.
local common = require("common")

local value = common.value(common.value_bytes)
local before_key = common.is_etcd and '{"key":"' or "PUT /v1/kv/"
local after_key = common.is_etcd and '","value":"' .. value .. '"}'
  or common.query .. " HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/octet-stream\r\nContent-Length: "
    .. common.value_bytes .. "\r\n\r\n" .. value
local is_cold, written = common.setting("COLD") == "1", 0

function request()
  local number
  if is_cold then
    number, written = written * common.threads + thread_number, written + 1
  else
    number = math.random(common.keys) - 1
  end
  local text = before_key .. common.key(number) .. after_key
  return common.is_etcd and common.post("/v3/kv/put", text) or text
end
