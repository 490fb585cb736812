# One tensor, one linear, and their bytes.
. "$ROOT/tests/cli/lib"
up=model.layers.0.mlp.up_proj
gptq-inspect "$T" --tensor model.norm --head 3
gptq-inspect "$T" --tensor $up.weight --head 2
gptq-inspect "$Q" --tensor $up.g_idx --head 2
gptq-inspect "$Q" --tensor $up --head 3 >linear
sed -E 's/-?[0-9]+\.[0-9]+/F/g; s/#+/BAR/; s/[0-9]+ of 196608/N of 196608/
	s/^( +0 +[0-2] +0) .*/\1/; s/ +/ /g' linear
# the last column is what the codes mean, and the first weights by themselves
tail -n 3 linear | awk '{ d = $6 * ($4 - $5) - $7
	print d < 1e-9 && d > -1e-9 ? "equal" : "not equal" }'
tail -n 3 linear | awk '{print $7}' >a
gptq-inspect "$Q" --tensor $up@dequant --head 3 | tail -n 3 |
	awk '{print $2}' | cmp - a
gptq-inspect "$Q" --tensor $up.scales@dequant --raw --head 3 |
	od -An -f | awk '{for (i = 1; i <= NF; i++) print $i + 0}' >b
awk '{print $1 + 0}' a | cmp - b
# raw: the file's own bytes
gptq-inspect "$T" --tensor $up --raw | wc -c | tr -d ' '
set -- $(gptq-inspect "$T" --tensors --match '^model.norm' |
	awk 'NR == 2 {print $(NF-1), $(NF-2)}')
tail -c +$(($1 + 1)) "$T/model.safetensors" | head -c "$2" >norm
gptq-inspect "$T" --tensor model.norm.weight --raw | cmp - norm
gptq-inspect "$T" --tensor model.norm.weight --raw --head 5 | wc -c | tr -d ' '
gptq-inspect "$Q" --tensor $up --raw | wc -c | tr -d ' '
gptq-inspect "$Q" --tensor $up --raw | head -c 1 | wc -c | tr -d ' '
gptq-inspect "$Q" --tensor $up --head 2 --match nothing --json >j.json
json_ok j.json
grep -c '"codes": \[' j.json
refused gptq-inspect "$Q" --tensor model.layers.0.mlp.up_prj
refused gptq-inspect "$Q" --tensor nothing.of.the.kind.is.here.at.all
refused gptq-inspect "$Q" --raw
refused gptq-inspect "$Q" --head 3
refused gptq-inspect "$Q" --tensor $up --raw -P
