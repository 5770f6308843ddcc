-- The list of models for users who may not use all of them.
--
--   setenv MODELS_LIST .../www/models.json
--   setenv USER_MODELS_MAP .../maps/user_models.map
--   lua-load models.lua
--   http-request use-service lua.models_of_user if { path /v1/models } ...
--
-- Reads txn.user. The map, which changes while this runs, has USER/MODEL for each model that a user may use.

local rows = {}
local allowed

core.register_init(function()
  allowed = Map.new(os.getenv("USER_MODELS_MAP"), Map._str)
  local list = assert(io.open(os.getenv("MODELS_LIST"))):read("a")
  for row, name in list:gmatch('({"id":%s*"([^"]+)"[^}]*})') do
    rows[#rows + 1] = { row = row, name = name }
  end
end)

core.register_service("models_of_user", "http", function(applet)
  local user, own = applet:get_var("txn.user"), {}
  for _, model in ipairs(rows) do
    if allowed:lookup(user .. "/" .. model.name) then
      own[#own + 1] = model.row
    end
  end
  local text = '{"object":"list","data":[' .. table.concat(own, ",") .. "]}\n"
  applet:set_status(200)
  applet:add_header("content-type", "application/json")
  applet:add_header("content-length", tostring(#text))
  applet:start_response()
  if applet.method ~= "HEAD" then
    applet:send(text)
  end
end)
