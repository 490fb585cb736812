. "$ROOT/tests/cli/lib"
# the form of the report; the figures are the machine's own
gptq-run "$Q" --bench --pp 8 --tg 4 --runs 2 --depth 3 |
	sed -E 's/[0-9]+(\.[0-9]+)?/N/g; s/kernel .*/kernel NAME/; s/cpu .*/cpu/'
gptq-run "$Q" --bench --pp 8 --tg 4 --runs 2 --json >r.json
json_ok r.json
sed -E '/(second|share)/s/: [0-9.e+-]+/: N/; s/^(\t| )+[0-9.e+-]+,?$/N/
	s/"(kernel|device)": ".*"/"\1": NAME/; s|"path": ".*"|"path": PATH|' r.json
# several sequences: the cache is as many times as large, a step reads the
# weights once
gptq-run "$Q" --bench --pp 0 --tg 4 --runs 1 --depth 3 --batch 4 |
	sed -E 's/[0-9]+(\.[0-9]+)?/N/g' | grep -E 'weights|cache|decode|each'
gptq-run "$Q" --bench --pp 0 --tg 4 --runs 1 --batch 1 --json >one.json
gptq-run "$Q" --bench --pp 0 --tg 4 --runs 1 --batch 4 --json >four.json
json_ok four.json
awk -F '[:,]' '/"(batch|weight_bytes|cache_bytes|bytes_per_token)"/ {
	printf "%s %.0f\n", $1, $2 }' one.json four.json
awk -F '[:,]' '/"tokens_per_second"/ { all = $2 }
	/"tokens_per_second_each"/ { each = $2 }
	END { print all / each }' four.json
gptq-run "$T" --bench --pp 0 --tg 2 --runs 1 --json | grep prefill
gptq-run "$T" --bench --pp 2 --tg 0 --runs 1 --json | grep decode
refused gptq-run "$T" --bench -p x
refused gptq-run "$T" --bench --pp 0 --tg 0
refused gptq-run "$T" --bench --pp 100000
refused gptq-run nowhere --bench
# what does not fit says what would
refused gptq-run "$T" --bench --batch 4096 --depth 32000 --pp 0 |
	sed -E 's/[0-9.]+ GiB are/N GiB are/; s/(for|or) [0-9]+ /\1 N /g'
