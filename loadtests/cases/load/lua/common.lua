-- What every script here shares. Settings come in the environment (CASES_...), for wrk has one Lua state per thread,
-- and each of them reads this file anew.
--
-- All threads of one wrk share one histogram, so the percentiles are those of all members together: each thread is
-- sent to a member of its own, in turn.
local common = {}

function common.setting(name, default) return os.getenv("CASES_" .. name) or default end

common.is_etcd = common.setting("SIDE") == "etcd"
common.keys = tonumber(common.setting("KEYS", "1"))
common.value_bytes = tonumber(common.setting("VALUE_BYTES", "255"))
common.query = common.setting("QUERY", "")
-- Three letters. With nine digits after them every key has twelve bytes, whose base64 goes by threes.
common.prefix = common.setting("PREFIX", "key")
common.threads = tonumber(common.setting("THREADS", "1"))

local addresses = {}
for host, port in common.setting("ADDRESSES", ""):gmatch("([^:,]+):(%d+)") do
  addresses[#addresses + 1] = {host, port}
end

local alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
local function three(a, b, c)
  local all = a * 65536 + b * 256 + c
  local digits = {}
  for place = 1, 4 do
    local digit = math.floor(all / 64 ^ (4 - place)) % 64 + 1
    digits[place] = alphabet:sub(digit, digit)
  end
  return table.concat(digits)
end

local encoded_digits = {}
for number = 0, 999 do encoded_digits[number] = three(string.byte(string.format("%03d", number), 1, 3)) end
local encoded_prefix = three(string.byte(common.prefix, 1, 3))

-- The key of that number as it stands in a request: in a path, or as base64 in etcd's JSON.
function common.key(number)
  if not common.is_etcd then return string.format("%s%09d", common.prefix, number) end
  local upper, middle = math.floor(number / 1000000), math.floor(number / 1000) % 1000
  return encoded_prefix .. encoded_digits[upper] .. encoded_digits[middle] .. encoded_digits[number % 1000]
end

-- So many x, for etcd in base64.
function common.value(bytes)
  if not common.is_etcd then return string.rep("x", bytes) end
  local rest = ({[0] = "", "eA==", "eHg="})[bytes % 3]
  return string.rep("eHh4", math.floor(bytes / 3)) .. rest
end

function common.get(number, serializable)
  if not common.is_etcd then
    return "GET /v1/kv/" .. common.key(number) .. common.query .. " HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
  end
  local more = serializable and '","serializable":true}' or '"}'
  return common.post("/v3/kv/range", '{"key":"' .. common.key(number) .. more)
end

function common.post(path, body)
  return "POST " .. path .. " HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: "
    .. #body .. "\r\n\r\n" .. body
end

-- Run by wrk's main state for each thread, before that begins.
local threads = {}
common.all_threads = threads
function setup(thread)
  thread:set("thread_number", #threads)
  local host, port = unpack(addresses[#threads % #addresses + 1])
  thread.addr = wrk.lookup(host, port)[1]
  threads[#threads + 1] = thread
end

function init()
  math.randomseed(os.time() * 1000 + thread_number)
  math.random()
end

-- A number counted by the threads, all together.
function common.total(name)
  local sum = 0
  for _, thread in ipairs(threads) do sum = sum + (thread:get(name) or 0) end
  return sum
end

-- Lists kept by the threads, as one.
function common.gathered(name)
  local all = {}
  for _, thread in ipairs(threads) do
    for _, item in ipairs(thread:get(name) or {}) do all[#all + 1] = item end
  end
  return all
end

-- The last line, for the program that started wrk. `more` is put into it as it is: JSON members, with a comma first.
function common.report(summary, latency, more)
  local errors = summary.errors
  io.write(string.format(
    'CASES {"requests":%d,"seconds":%.6f,"status_errors":%d,"socket_errors":%d,"timeouts":%d,'
      .. '"p50_us":%d,"p99_us":%d,"p999_us":%d,"max_us":%d%s}\n',
    summary.requests, summary.duration / 1e6, errors.status, errors.connect + errors.read + errors.write,
    errors.timeout, latency:percentile(50), latency:percentile(99), latency:percentile(99.9), latency.max,
    more or ""))
end

function done(summary, latency) common.report(summary, latency) end

return common
