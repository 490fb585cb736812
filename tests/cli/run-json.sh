. "$ROOT/tests/cli/lib"
gptq-run "$T" -p 'In the beginning' -n 6 --temp 0 --json >r.json
json_ok r.json
sed -E '/(load|prefill|decode)"/s/: [0-9.e+-]+/: N/; s/"kernel": ".*"/"kernel": NAME/' r.json
gptq-run "$T" -p x -n 0 --json | grep stop_reason
gptq-run "$T" -p 'In the beginning' -n 40 --temp 0 --json --stop day | grep -E 'stop_reason|text'
gptq-run "$T" -p 'In the beginning' -n -1 -c 9 --temp 0 --json | grep -E 'stop_reason|generated'
