. "$ROOT/tests/cli/lib"
# the form of the report; the figures are the machine's own
gptq-run "$Q" --bench --pp 8 --tg 4 --runs 2 --depth 3 |
	sed -E 's/[0-9]+(\.[0-9]+)?/N/g; s/kernel .*/kernel NAME/; s/cpu .*/cpu/'
gptq-run "$Q" --bench --pp 8 --tg 4 --runs 2 --json >r.json
json_ok r.json
sed -E '/(second|share)/s/: [0-9.e+-]+/: N/; s/^(\t| )+[0-9.e+-]+,?$/N/
	s/"(kernel|device)": ".*"/"\1": NAME/; s|"path": ".*"|"path": PATH|' r.json
gptq-run "$T" --bench --pp 0 --tg 2 --runs 1 --json | grep prefill
gptq-run "$T" --bench --pp 2 --tg 0 --runs 1 --json | grep decode
refused gptq-run "$T" --bench -p x
refused gptq-run "$T" --bench --pp 0 --tg 0
refused gptq-run "$T" --bench --batch 2
refused gptq-run "$T" --bench --pp 100000
refused gptq-run nowhere --bench
