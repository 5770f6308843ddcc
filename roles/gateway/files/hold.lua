-- Requests wait while their backend's servers change, instead of being refused.
--
--   setenv HOLD_MAP MAP
--   lua-load hold.lua
--   http-request lua.hold 300 if { nbsrv eq 0 } || { be_name,map(MAP) -m found }
--
-- The last stands in a backend, after its body was buffered. A request waits while the backend stands in the map, which is
-- written before the last of its servers is taken out; and while no server can be used and one of them stands in the map,
-- as BACKEND/SERVER: that one comes back. The argument is the longest wait in seconds. What waited longer is refused as
-- without a server. Sets txn.held_ms, how long it waited.

local LOOK_MS = 50
local held

core.register_init(function()
  held = Map.new(os.getenv("HOLD_MAP"), Map._str)
end)

local function comes_back(backend)
  for name in pairs(core.backends[backend].servers) do
    if held:lookup(backend .. "/" .. name) then
      return true
    end
  end
  return false
end

core.register_action("hold", { "http-req" }, function(txn, limit)
  local backend = txn.f:be_name()
  local began = core.now()
  while held:lookup(backend) or (txn.f:nbsrv() == 0 and comes_back(backend)) do
    if core.now().sec - began.sec >= tonumber(limit) then
      break
    end
    core.msleep(LOOK_MS)
  end
  local now = core.now()
  txn:set_var("txn.held_ms", (now.sec - began.sec) * 1000 + (now.usec - began.usec) // 1000)
end, 1)
