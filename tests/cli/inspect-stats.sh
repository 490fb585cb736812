# Ranges and histograms, plain ASCII here, and the same numbers as JSON.
. "$ROOT/tests/cli/lib"
gptq-inspect "$Q" --stats --match '\.0\.mlp' >stats
sed -E 's/[0-9]+\.[0-9]+/F/g; s/[.:=+*%# -]{10,}/ ... /; s/ +/ /g' stats
LC_ALL=C.UTF-8 gptq-inspect "$Q" --stats --match '\.0\.mlp' |
	grep -c "$(printf '\342\226\210')"
# any number of threads, and narrowed or not: equal numbers
gptq-inspect "$Q" --stats -t 1 >one
gptq-inspect "$Q" --stats -t 3 | cmp - one
gptq-inspect "$T" --stats | grep -c F16
gptq-inspect "$Q" --stats --json --match '\.0\.mlp\.up' >j.json
json_ok j.json
sed -n '/"stats"/,/"noise"/p' j.json | grep -oE '"[a-z_]+": [[{]' | sort | uniq -c
# a NaN among the scales and one in a norm
copy_q sick
set -- $(gptq-inspect "$Q" --tensors --match '1.mlp.up_proj.scales' |
	awk 'NR == 2 {print $(NF-1)}')
printf '\377\377' |
	dd of=sick/model.safetensors bs=1 seek="$1" conv=notrunc 2>/dev/null
set -- $(gptq-inspect "$Q" --tensors --match '^model.norm' |
	awk 'NR == 2 {print $(NF-1)}')
printf '\000\174' |
	dd of=sick/model.safetensors bs=1 seek="$1" conv=notrunc 2>/dev/null
gptq-inspect sick --stats | grep -oE 'model.*(up_proj|norm.weight) .*(NaN|inf).*' |
	sed -E 's/  .*  /  ...  /'
gptq-inspect sick --stats | grep -o ', 1 NaN scales'
gptq-inspect sick --stats --json >s.json
json_ok s.json
