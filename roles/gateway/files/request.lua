-- What a request asks for, read from its JSON body: sets txn.model, txn.stream and, for chats and completions, txn.prefix,
-- by which a conversation is known again; or txn.problem, a sentence that says why the body can't be served, and
-- txn.problem_kind (invalid, too_large).
--
-- Only what decides is read: the members of the outermost object, with JSON's escapes, since a server reads those, too.
-- What is inside of messages is skipped, and never kept. HAProxy's own json_query takes the first of two members of one
-- name where servers take the last, and knows no escapes in names.

local find, byte, sub, match = string.find, string.byte, string.sub, string.match

local MODEL_MAX = 256
local PROMPT_PREFIX = 1024
local MEMBERS_MAX = 256 -- of the outermost object; there are some 100 that servers know
local MESSAGES_MAX = 64 -- that are looked at for the first of the user
-- Members that llama-server's own front ends make of a request for its inner interface. What reaches them from outside
-- has parsers of the server run that were never meant for strangers. A user can hold a slot with id_slot.
local INTERNAL = {
    __metadata_user_id = true, chat_format = true, chat_parser = true, generation_prompt = true, grammar_lazy = true,
    grammar_triggers = true, grammar_type = true, id_slot = true, parse_tool_calls = true, preserved_tokens = true,
    reasoning_budget_end_tag = true, reasoning_budget_end_tags = true, reasoning_budget_start_tag = true,
}
local ESCAPED = { b = "\b", f = "\f", n = "\n", r = "\r", t = "\t", ['"'] = '"', ["\\"] = "\\", ["/"] = "/" }

-- The position of the quote that ends the string that begins at `at`.
local function string_end(text, at)
    local from = at + 1
    while true do
        local quote = find(text, '"', from, true)
        if not quote then return nil end
        local back = quote - 1
        while byte(text, back) == 92 do back = back - 1 end
        if (quote - back) % 2 == 1 then return quote end
        from = quote + 1
    end
end

-- A string's text between its quotes, as servers read it; nil where it has an escape that JSON lacks.
local function plain(raw)
    if not find(raw, "\\", 1, true) then return raw end
    local parts, from = {}, 1
    while true do
        local at = find(raw, "\\", from, true)
        if not at then break end
        parts[#parts + 1] = sub(raw, from, at - 1)
        local letter = sub(raw, at + 1, at + 1)
        if letter == "u" then
            local code = tonumber(match(raw, "^%x%x%x%x", at + 2) or "", 16)
            if not code then return nil end
            from = at + 6
            if code >= 0xD800 and code < 0xDC00 then
                local low = tonumber(match(raw, "^\\u(%x%x%x%x)", from) or "", 16)
                if not low or low < 0xDC00 or low > 0xDFFF then return nil end
                code = 0x10000 + (code - 0xD800) * 0x400 + (low - 0xDC00)
                from = from + 6
            end
            parts[#parts + 1] = utf8.char(code)
        else
            local one = ESCAPED[letter]
            if not one then return nil end
            parts[#parts + 1] = one
            from = at + 2
        end
    end
    parts[#parts + 1] = sub(raw, from)
    return table.concat(parts)
end

-- The position of the last character of the value that begins at `at`.
local function value_end(text, at)
    local first = byte(text, at)
    if first == 34 then return string_end(text, at) end
    if first ~= 123 and first ~= 91 then
        local _, last = find(text, "^[%w.+-]+", at)
        return last
    end
    local depth, from = 0, at
    while true do
        local here = find(text, '["%[%]{}]', from)
        if not here then return nil end
        local what = byte(text, here)
        if what == 34 then
            here = string_end(text, here)
            if not here then return nil end
        elseif what == 123 or what == 91 then
            depth = depth + 1
        else
            depth = depth - 1
            if depth == 0 then return here end
        end
        from = here + 1
    end
end

local function after_space(text, at)
    return find(text, "[^ \t\r\n]", at) or #text + 1
end

-- The text of messages up to the first of the user, which a conversation begins with each time.
local function beginning(text, from, to)
    local at = after_space(text, from + 1)
    local messages = 0
    while at < to and byte(text, at) == 123 do
        local last = value_end(text, at)
        if not last then return nil end
        messages = messages + 1
        if messages == MESSAGES_MAX then return sub(text, from, last) end
        if find(sub(text, at, last), '"role"%s*:%s*"user"') then return sub(text, from, last) end
        at = after_space(text, last + 1)
        if byte(text, at) == 44 then at = after_space(text, at + 1) end
    end
    return sub(text, from, to)
end

-- What a body asks for: members by name for those that matter, or nil and why not.
local function read(text)
    local at = after_space(text, 1)
    if byte(text, at) ~= 123 then return nil, "is not a JSON object" end
    local asked, members = {}, 0
    at = after_space(text, at + 1)
    while byte(text, at) ~= 125 do
        local closes = byte(text, at) == 34 and string_end(text, at)
        local name = closes and plain(sub(text, at + 1, closes - 1))
        local colon = closes and after_space(text, closes + 1)
        if not name or byte(text, colon) ~= 58 then return nil, "is not JSON, or ends too early" end
        members = members + 1
        if members > MEMBERS_MAX then return nil, "has more than " .. MEMBERS_MAX .. " members" end
        local from = after_space(text, colon + 1)
        local to = value_end(text, from)
        if not to then return nil, "is not JSON, or ends too early" end
        if name == "model" then
            if asked.model then return nil, "names a model twice" end
            asked.model = byte(text, from) == 34 and plain(sub(text, from + 1, to - 1))
            if not asked.model or asked.model == "" then return nil, "names its model by something else than a text" end
            if #asked.model > MODEL_MAX then return nil, "names a model with more than " .. MODEL_MAX .. " characters" end
        elseif name == "stream" then
            asked.stream = sub(text, from, to) == "true"
        elseif name == "messages" and byte(text, from) == 91 then
            asked.prefix = beginning(text, from, to)
        elseif name == "prompt" and byte(text, from) == 34 then
            asked.prefix = sub(text, from, math.min(to, from + PROMPT_PREFIX))
        elseif name == "n" or name == "n_cmpl" then
            if asked.choices_name and asked.choices_name ~= name then return nil, "has both n and n_cmpl: send one" end
            asked.choices_name = name
            asked.choices = math.tointeger(tonumber(sub(text, from, to)))
        elseif name == "response_fields" or name == "texts" then
            asked.uncounted = name
        elseif INTERNAL[name] then
            asked.internal = name
        end
        at = after_space(text, to + 1)
        if byte(text, at) == 44 then
            at = after_space(text, at + 1)
            if byte(text, at) == 125 then return nil, "is not JSON, or ends too early" end
        elseif byte(text, at) ~= 125 then
            return nil, "is not JSON, or ends too early"
        end
    end
    if after_space(text, at + 1) <= #text then return nil, "is not JSON: something follows its end" end
    if not asked.model then return nil, "names no model" end
    return asked
end

core.register_action("read_request", { "http-req" }, function(txn)
    local text = txn.f:req_body() or ""
    local asked, why = read(text)
    if not asked then
        local whole = txn.f:req_body_size() or 0
        local kind = "invalid"
        -- What is sent in pieces tells its size only by reaching the end of the buffer.
        if whole > #text or #text >= txn:get_var("txn.max_body") then kind = "too_large" end
        txn:set_var("txn.problem_kind", kind)
        txn:set_var("txn.problem", "the body of the request " .. why)
        return
    end
    txn:set_var("txn.model", asked.model)
    txn:set_var("txn.stream", asked.stream and 1 or 0)
    if asked.internal then txn:set_var("txn.internal", asked.internal) end
    if asked.choices then txn:set_var("txn.choices", asked.choices) end
    if asked.uncounted then txn:set_var("txn.uncounted", asked.uncounted) end
    if asked.prefix then txn:set_var("txn.prefix", asked.model .. "/" .. tostring(txn.c:xxh64(asked.prefix))) end
end)
