-- CASES_EACH operations in one request, all puts or (CASES_OP=get) all gets, on neighbouring keys from a random one on:
-- POST /v1/batch beside one transaction of etcd's. Each operation's own answer is looked at.
local common = require("common")

local each = tonumber(common.setting("EACH", "100"))
local is_put = common.setting("OP", "put") == "put"
local value = common.value(common.value_bytes)
refused = 0 -- global, so that done() can ask the threads for it

local before_key, after_key
if common.is_etcd then
  before_key = is_put and '{"request_put":{"key":"' or '{"request_range":{"key":"'
  after_key = is_put and '","value":"' .. value .. '"}}' or '"}}'
else
  before_key = is_put and '{"op":"put","key":"' or '{"op":"get","key":"'
  after_key = is_put and '","value":"' .. value .. '"}' or '"}'
end

function request()
  local first, operations = math.random(common.keys - each + 1) - 1, {}
  for i = 1, each do operations[i] = before_key .. common.key(first + i - 1) .. after_key end
  local list = table.concat(operations, ",")
  if common.is_etcd then return common.post("/v3/kv/txn", '{"success":[' .. list .. "]}") end
  return common.post("/v1/batch" .. common.query, '{"operations":[' .. list .. "]}")
end

function response(status, _, body)
  if status ~= 200 then return end -- wrk counts it
  local sign = not common.is_etcd and '"status":200' or is_put and '"response_put"' or '"kvs"'
  local _, good = body:gsub(sign, "")
  refused = refused + each - good
end

function done(summary, latency)
  common.report(summary, latency, string.format(',"refused":%d', common.total("refused")))
end
