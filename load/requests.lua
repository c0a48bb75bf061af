-- What wrk sends, and the figures it prints:
--   wrk … -s requests.lua URL -- KIND KEY PATH LAST_ID FIRST
-- create: a payment under a key of its own; read: any payment from 1 to LAST_ID; list: one page;
-- consume: a payment that no other FIRST, nor this one before, has met; dequeue: the oldest LAST_ID.

-- A prime, so that its multiples meet each payment once, far from each other.
local STRIDE = 1299709

local thread_number = 0

function setup(thread)
  thread_number = thread_number + 1
  thread:set("number", thread_number)
end

function init(arguments)
  kind, path, last_id = arguments[1], arguments[3], tonumber(arguments[4])
  wrk.headers["Authorization"] = "Bearer " .. arguments[2]
  count = tonumber(arguments[5])
  math.randomseed(number)
  if kind == "create" then
    wrk.method = "POST"
    wrk.headers["Content-Type"] = "application/json"
    -- A key is never used twice, also not by another run.
    prefix = string.format("%s-%d-", tostring({}):sub(8), os.time())
  elseif kind == "consume" then
    wrk.method = "PATCH"
    wrk.headers["Content-Type"] = "application/json"
    wrk.body = '{"status": "consumed"}'
    -- Where there are fewer payments than requests, the first answer comes again.
    wrk.headers["Idempotency-Key"] = "bench"
  elseif kind == "dequeue" then
    wrk.method = "POST"
    wrk.headers["Content-Type"] = "application/json"
    wrk.body = string.format('{"limit": %d}', last_id)
    prefix = string.format("%s-%d-", tostring({}):sub(8), os.time())
  end
end

function request()
  if kind == "create" then
    count = count + 1
    wrk.headers["Idempotency-Key"] = prefix .. count
    local body = string.format('{"payment": 12345.67, "data": {"order": "A-1", "n": %d}}', count)
    return wrk.format(nil, path, nil, body)
  elseif kind == "dequeue" then
    count = count + 1
    wrk.headers["Idempotency-Key"] = prefix .. count
  elseif kind == "read" then
    return wrk.format(nil, (path:gsub("{id}", math.random(last_id))))
  elseif kind == "consume" then
    count = count + 1
    return wrk.format(nil, (path:gsub("{id}", count * STRIDE % last_id + 1)))
  end
  return wrk.format(nil, path)
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\nfigures {"requests": %d, "seconds": %f, "failed": %d, "p50_ms": %f, "p99_ms": %f, "p999_ms": %f}\n',
    summary.requests, summary.duration / 1e6,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency:percentile(99.9) / 1e3))
end
