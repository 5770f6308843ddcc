-- Usage of each answer for the gateway's log: tokens by the server's own count, and events where the client cut it off.
--
--     lua-load .../usage.lua          in haproxy.cfg, once
--     filter lua.usage                in the frontend
--
-- Sets these variables of the transaction when the answer has ended, in whatever way:
--   txn.prompt_tokens      tokens of the prompt, those from the cache among them
--   txn.cached_tokens      those of them that the server had in its cache
--   txn.completion_tokens  tokens of the answer; a lower bound where txn.usage is "part"
--   txn.usage              "whole": the server's count; "part": the answer was not seen to its end; unset: it has none
--   txn.events             events of a stream
--   txn.ttft_ms            milliseconds from the request's first byte to the first token (or to a body that is no stream)
--
-- and reads txn.choices, how many choices were asked for of each prompt.
--
-- Nothing of prompt or answer is kept or handed on. In events a key with its colon, '"timings":{', is never found in what a
-- user or a model wrote, which is in strings there: a quote in one has a backslash before it. A body may hold JSON that a
-- model wrote (the arguments of its calls, for Anthropic's clients): there the depth of a key counts.
--
-- Two filters may not share an answer: what another one compressed can't be read. The gateway asks servers for plain text.

local find, match, sub, byte = string.find, string.match, string.sub, string.byte

local LONG_EVENT = 65536 -- of an unfinished event more than this is cut in its middle: what counts stands at its ends
local NAMES = { timings = "timings", usage = "usage", finish_reason = "finish_reason" }
local LONGEST_OBJECT = 2048 -- of "timings" and "usage"; about 300 bytes

local Usage = { id = "usage", flags = filter.FLT_CFG_FL_HTX }
Usage.__index = Usage

function Usage:new()
    return setmetatable({}, Usage)
end

-- --- Numbers of the server's objects

-- Prompt, cached and completion tokens of a "timings" object.
local function timings_of(object)
    local cached = tonumber(match(object, '"cache_n":(%d+)')) or 0
    local prompt = tonumber(match(object, '"prompt_n":(%d+)'))
    local predicted = tonumber(match(object, '"predicted_n":(%d+)'))
    if prompt and predicted then
        return cached + prompt, cached, predicted
    end
end

-- The same of a "usage" object, of any of the protocols; nil where it lacks one. Anthropic's input leaves out the cache.
local function usage_of(object)
    local read = tonumber(match(object, '"cache_read_input_tokens":(%d+)'))
    local cached = read or tonumber(match(object, '"cached_tokens":(%d+)')) or 0
    local prompt = tonumber(match(object, '"prompt_tokens":(%d+)') or match(object, '"input_tokens":(%d+)'))
    local completion = tonumber(match(object, '"completion_tokens":(%d+)') or match(object, '"output_tokens":(%d+)'))
    return prompt and prompt + (read or 0), cached, completion
end

-- --- Bodies of JSON

-- The position of the quote that ends a string whose text begins at `from`.
local function quote_at(text, from)
    while true do
        local quote = find(text, '"', from, true)
        if not quote then return nil end
        local back = quote - 1
        while back >= from and byte(text, back) == 92 do back = back - 1 end
        if (quote - back) % 2 == 1 then return quote end
        from = quote + 1
    end
end

-- Reads what is new of a body: all "timings" (an answer to several prompts has one each), and the last "usage". They are
-- members of the outermost object, or of the objects of an outermost list; what a model wrote as JSON lies deeper.
function Usage:json(data)
    if self.rest then
        data = self.rest .. data
    end
    local at, keep = 1, nil
    if self.in_string then
        local closes = quote_at(data, 1)
        if not closes then
            self.rest = match(data, "\\*$") -- whether they are an even number is yet to be seen
            return
        end
        self.in_string, at = false, closes + 1
    end
    while true do
        local here = find(data, '["{}%[%]]', at)
        if not here then break end
        local what = byte(data, here)
        if what == 34 then
            local closes = quote_at(data, here + 1)
            if not closes then
                self.in_string = #data - here >= LONGEST_OBJECT -- and so no name
                keep = self.in_string and #data - #match(data, "\\*$") + 1 or here
                break
            end
            local name = NAMES[sub(data, here + 1, closes - 1)]
            if name and #data < closes + 2 then
                keep = here
                break
            end
            if name == "finish_reason" then
                self.choices = self.choices + (byte(data, closes + 2) == 34 and 1 or 0)
            elseif name and self.depth == self.outermost and byte(data, closes + 2) == 123 then
                local object = match(data, "^%b{}", closes + 2)
                if object then
                    self:json_object(name, object)
                    closes = closes + 1 + #object
                elseif #data - here < LONGEST_OBJECT then
                    keep = here -- it goes on in what is still to come
                    break
                end
            end
            at = closes + 1
        else
            if what == 123 or what == 91 then
                self.outermost = self.outermost or (what == 91 and 2 or 1)
                self.depth = self.depth + 1
            else
                self.depth = self.depth - 1
            end
            at = here + 1
        end
    end
    self.rest = keep and sub(data, keep)
end

function Usage:json_object(key, object)
    if key == "usage" then
        self.prompt, self.cached, self.completion = usage_of(object)
        self.completion = self.completion or 0
        self.told = self.prompt ~= nil
        return
    end
    local prompt, cached, predicted = timings_of(object)
    if prompt then
        self.sums = self.sums or { 0, 0, 0 }
        self.sums[1], self.sums[2], self.sums[3] =
            self.sums[1] + prompt, self.sums[2] + cached, self.sums[3] + predicted
        self.last_timings = { prompt, cached, predicted }
    end
end

function Usage:json_result()
    if self.told then
        local numbers = self.last_timings or { self.prompt, self.cached, self.completion }
        -- Of several choices in one answer the server counts the first.
        return numbers[1], numbers[2], numbers[3], self.choices <= 1
    elseif self.sums then
        return self.sums[1], self.sums[2], self.sums[3], true
    end
end

-- --- Streams of events

-- The result that an event is of: its choice, a word for the kind of its delta, and the tokens that the server had then.
-- nil where it holds no token. One result of the server can be several events of different kinds, so tokens are at least
-- the events of a kind that another of the same choice and kind came before.
local function token_of(event)
    local choice, kind = match(event, '"index":(%d+),"delta":{"([%a_]+)"')
    if kind == "tool_calls" then
        return choice, kind .. (match(event, '"tool_calls":%[{"index":(%d+)') or "")
    elseif kind == "type" then -- Anthropic's
        kind = match(event, '"delta":{"type":"([%a_]+)"')
        if kind ~= "signature_delta" then
            return "0", kind .. choice
        end
    elseif kind then
        if kind ~= "role" then
            return choice, kind
        end
    elseif find(event, '"tokens_predicted":', 1, true) then -- llama-server's own
        local predicted = tonumber(match(event, '"tokens_predicted":(%d+)'))
        return match(event, '"index":(%d+)') or "0", nil, predicted
    elseif find(event, '"object":"text_completion"', 1, true) then
        if not find(event, '"text":""', 1, true) then
            return match(event, '"index":(%d+)') or "0", nil
        end
    else
        kind = match(event, '"type":"(response%.[%a_]+%.delta)"')
        if kind then
            return "0", kind .. (match(event, '"item_id":"([^"]*)"') or "")
        end
    end
end

local function is_partial(event)
    return find(event, '"finish_reason":null', 1, true) or find(event, '"stop":false', 1, true)
        or match(event, '"type":"response%.[%a_]+%.delta"')
end

-- The object behind the last "timings" or "usage" of an event.
local function last_object(event, key)
    local object
    local start, stop = find(event, key, 1, true)
    while start do
        object = match(event, "^%b{}", stop) or object
        start, stop = find(event, key, stop, true)
    end
    return object or ""
end

-- Counts one event. `open` has by choice what is known of an answer that goes on, `done` the sums of those that ended.
function Usage:event(event)
    if byte(event, 1) == 58 then -- a colon: a comment that keeps the connection open
        return
    end
    self.events = self.events + 1
    local has_timings = find(event, '"timings":{', 1, true)
    local has_usage = find(event, '"usage":{', 1, true)
    if has_timings or has_usage then
        if not is_partial(event) then
            return self:final(event, has_timings, has_usage)
        end
    end
    local choice, kind, predicted = token_of(event)
    if not choice then
        local ended = match(event, '"finish_reason":"[%a_]+","index":(%d+)')
        self.ended = ended or self.ended
        return
    end
    self.first = self.first or core.now()
    local open = self.open[choice]
    if not open then
        open = { tokens = 0, prompt = 0, cached = 0, kind = kind }
        self.open[choice] = open
        open.tokens = predicted or 1
    elseif predicted then
        open.tokens = predicted
    elseif kind == open.kind then
        open.tokens = open.tokens + 1
    else
        open.kind = kind
    end
    if has_timings then
        local prompt, cached, tokens = timings_of(last_object(event, '"timings":{'))
        if prompt then
            open.prompt, open.cached, open.tokens = prompt, cached, tokens
        end
    end
    self.whole = false
end

-- Takes the count at the end of a choice, or that at the head or the end of a message of Anthropic's.
function Usage:final(event, has_timings, has_usage)
    local prompt, cached, completion
    if has_timings then
        prompt, cached, completion = timings_of(last_object(event, '"timings":{'))
    end
    if not completion and has_usage then
        prompt, cached, completion = usage_of(last_object(event, '"usage":{'))
        if find(event, '"type":"message_start"', 1, true) then
            self.open["0"] = { tokens = 0, prompt = prompt or 0, cached = cached }
            return
        elseif not prompt and self.open["0"] then -- message_delta tells what was generated, and no more
            prompt, cached = self.open["0"].prompt, self.open["0"].cached
        end
    end
    if not completion then
        return
    end
    local choice = match(event, '"finish_reason":"[%a_]+","index":(%d+)')
        or self.ended or match(event, '"index":(%d+)') or "0"
    self.open[choice] = nil
    self.ended = nil
    local done = self.done
    if tonumber(choice) % self.per_prompt == 0 then -- the choices of one prompt follow each other
        done.prompt, done.cached = done.prompt + (prompt or 0), done.cached + cached
    end
    done.tokens = done.tokens + completion
    self.whole = next(self.open) == nil
end

function Usage:stream(data)
    if self.rest then
        data = self.rest .. data
    end
    local at = 1
    local stop = find(data, "\n\n", at, true)
    while stop do
        self:event(sub(data, at, stop - 1))
        at = stop + 2
        stop = find(data, "\n\n", at, true)
    end
    self.rest = at <= #data and sub(data, at) or nil
    if self.rest and #self.rest > LONG_EVENT then
        self.rest = sub(self.rest, 1, LONG_EVENT // 4) .. sub(self.rest, -LONG_EVENT // 4)
    end
end

function Usage:stream_result()
    local done = self.done
    local prompt, cached, tokens = done.prompt, done.cached, done.tokens
    for choice, open in pairs(self.open) do
        tokens = tokens + open.tokens
        if tonumber(choice) % self.per_prompt == 0 then
            prompt, cached = prompt + open.prompt, cached + open.cached
        end
    end
    if self.events > 0 then
        return prompt, cached, tokens, self.whole
    end
end

-- --- What HAProxy calls

function Usage:start_analyze(txn, channel)
    if channel:is_resp() then
        filter.register_data_filter(self, channel)
    else
        self.began = core.now()
    end
end

function Usage:http_headers(txn, message)
    if message.channel:is_resp() then
        local headers = message:get_headers()
        local kind = headers["content-type"] and headers["content-type"][0] or ""
        self.rest = nil
        if headers["content-encoding"] then
            self.format = nil -- not asked for, and not to be read
        elseif find(kind, "text/event-stream", 1, true) then
            self.format = "stream"
            self.events, self.whole, self.open = 0, false, {}
            self.done = { prompt = 0, cached = 0, tokens = 0 }
            self.per_prompt = math.max(math.tointeger(txn:get_var("txn.choices")) or 1, 1)
        elseif find(kind, "json", 1, true) then
            self.format, self.choices = "json", 0
            self.depth, self.outermost, self.in_string = 0, nil, false
        end
    end
    return filter.CONTINUE
end

function Usage:http_payload(_, message)
    local data = self.format and message:body()
    if data and #data > 0 then
        if self.format == "json" then
            self:json(data)
            self.first = self.first or core.now()
        else
            self:stream(data)
        end
    end
end

-- The log's line is written after this, as long as it has what is known only then: bytes, or the whole time.
function Usage:end_analyze(txn, channel)
    if not self.format or not channel:is_resp() then
        return
    end
    local prompt, cached, completion, whole
    if self.format == "json" then
        prompt, cached, completion, whole = self:json_result()
    else
        prompt, cached, completion, whole = self:stream_result()
        txn:set_var("txn.events", self.events)
    end
    if prompt then
        txn:set_var("txn.prompt_tokens", prompt)
        txn:set_var("txn.cached_tokens", cached)
        txn:set_var("txn.completion_tokens", completion)
        txn:set_var("txn.usage", whole and "whole" or "part")
    end
    if self.first then
        local ms = (self.first.sec - self.began.sec) * 1000 + (self.first.usec - self.began.usec) // 1000
        txn:set_var("txn.ttft_ms", ms)
    end
end

core.register_filter("usage", Usage, function(_, _)
    return Usage
end)
