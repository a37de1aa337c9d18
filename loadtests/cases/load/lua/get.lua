-- GETs of random keys; with CASES_SERIALIZABLE=1 etcd answers from the member that was asked.
local common = require("common")

local serializable = common.setting("SERIALIZABLE") == "1"

function request() return common.get(math.random(common.keys) - 1, serializable) end
