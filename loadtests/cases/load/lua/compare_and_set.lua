-- Writers of one key by compare-and-set. Each thread is a client with one connection: it writes on condition that the
-- version is the last one it was told, and a refusal tells it the one that stands there now. Both sides do that in one
-- request: PUT with If-Match, whose 412 names the version, and a transaction whose failure branch reads the key.
local common = require("common")
local ffi = require("ffi")

ffi.cdef [[
  typedef struct { long s; long ns; } cases_time;
  int clock_gettime(int clock, cases_time *time);
]]
local MONOTONIC = 1
local time = ffi.new("cases_time")
local function now_us()
  ffi.C.clock_gettime(MONOTONIC, time)
  return tonumber(time.s) * 1e6 + tonumber(time.ns) / 1e3
end

local value = common.value(common.value_bytes)
local version = common.is_etcd and "0" or "0000000000000001" -- nobody's: the first answer tells the right one
won, lost, wrong, took_us, began_us = 0, 0, 0, {}, nil -- global, so that done() can ask the threads for them

function request()
  began_us = began_us or now_us()
  local key = common.key(0)
  if common.is_etcd then
    return common.post("/v3/kv/txn",
      '{"compare":[{"key":"' .. key .. '","target":"MOD","result":"EQUAL","mod_revision":"' .. version .. '"}],'
        .. '"success":[{"request_put":{"key":"' .. key .. '","value":"' .. value .. '"}}],'
        .. '"failure":[{"request_range":{"key":"' .. key .. '"}}]}')
  end
  return "PUT /v1/kv/" .. key .. " HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/octet-stream\r\n"
    .. 'If-Match: "' .. version .. '"\r\nContent-Length: ' .. common.value_bytes .. "\r\n\r\n" .. value
end

local function outcome(status, body)
  if common.is_etcd then
    if status ~= 200 then return nil end
    if body:find('"succeeded":true', 1, true) then return true, body:match('"revision":"(%d+)"') end
    return false, body:match('"mod_revision":"(%d+)"')
  end
  if status ~= 200 and status ~= 412 then return nil end
  return status == 200, body:match('"version":"(%x+)"')
end

function response(status, _, body)
  local has_won, now = outcome(status, body)
  if has_won == nil or now == nil then
    wrong = wrong + 1
    return
  end
  version = now
  if has_won then
    won = won + 1
    local us = now_us()
    took_us[#took_us + 1] = us - began_us
    began_us = us
  else
    lost = lost + 1
  end
end

function done(summary, latency)
  -- A writer that waits to win when the time is up has waited at least so long: without it, who starves would not
  -- show at all.
  local took, now = common.gathered("took_us"), now_us()
  local starved = 0
  for _, thread in ipairs(common.all_threads) do
    local began = thread:get("began_us")
    if began then took[#took + 1] = now - began end
    if thread:get("won") == 0 then starved = starved + 1 end
  end
  table.sort(took)
  local function percentile(share) return took[math.min(math.floor(share * #took) + 1, #took)] or 0 end
  common.report(summary, latency, string.format(
    ',"won":%d,"lost":%d,"wrong":%d,"starved":%d,"won_p50_us":%d,"won_p99_us":%d,"won_p999_us":%d,"won_max_us":%d',
    common.total("won"), common.total("lost"), common.total("wrong"), starved,
    percentile(0.5), percentile(0.99), percentile(0.999), took[#took] or 0))
end
