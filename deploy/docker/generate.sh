#!/bin/sh
# Makes up logs of a few services, for demos, and pushes them with `skald push`: about LINES_PER_SECOND (default 50)
# lines, until it is stopped. Where to: SKALD_ADDR.
set -eu

# Each line becomes an object for `skald push --format jsonl`, which stamps it with the time at which it reads it.
make_up() {
    awk '
        function pick(list,    parts, n) { n = split(list, parts, " "); return parts[1 + int(rand() * n)] }
        function hex(digits,    text) {
            while (digits-- > 0) text = text sprintf("%x", int(rand() * 16))
            return text
        }
        # Most requests are quick and go well; some do not.
        function request(    chance) {
            chance = rand()
            status = chance < 0.93 ? 200 : chance < 0.97 ? 404 : 500
            level = status == 500 ? "error" : status == 404 ? "warn" : "info"
            milliseconds = int(5 + 40 * rand() + (rand() < 0.05 ? 900 * rand() : 0))
        }
        function entry(app, line) {
            gsub(/"/, "\\\"", line)
            printf "{\"labels\":{\"app\":\"%s\",\"env\":\"demo\",\"level\":\"%s\"},", app, level
            printf "\"metadata\":{\"trace_id\":\"%s\"},\"line\":\"%s\"}\n", trace, line
            fflush()
        }
        BEGIN {
            srand()
            for (;;) {
                trace = hex(32)
                request()
                entry("gateway", sprintf("method=%s path=/api/%s status=%d duration=%dms trace_id=%s", \
                    pick("GET GET GET POST"), pick("orders carts products users"), status, milliseconds, trace))
                order = int(rand() * 100000)
                entry("checkout", sprintf("{\"level\":\"%s\",\"msg\":\"%s\",\"order\":%d,\"duration_ms\":%d}", level, \
                    status == 500 ? "payment failed: card declined" : "order taken", order, milliseconds))
                if (rand() < 0.2) {
                    level = "info"
                    entry("worker", sprintf("sent mail for order %d to user%d@example.com", order, int(rand() * 900)))
                }
            }
        }'
}

make_up | exec skald push --format jsonl --rate "${LINES_PER_SECOND:-50}" --quiet
