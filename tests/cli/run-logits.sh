# Logits of every position: the shape, and the values of the reference.
. "$ROOT/tests/cli/lib"
ref=$T/reference-logits.safetensors
gptq-inspect "$ref" --tensors >tensors
set -- $(awk '$1 == "input_ids" {print $(NF-1), $(NF-2)}' tensors)
ids=$(od -An -v -t d4 -j "$1" -N "$2" "$ref" | tr -s ' \n' ',,' | sed 's/^,//; s/,$//')
gptq-run "$T" --ids "$ids" -n 0 --logits l.safetensors
gptq-inspect l.safetensors --tensors
floats() { # FILE: the values of `logits`, one a line
	set -- "$1" $(gptq-inspect "$1" --tensors |
		awk '$1 == "logits" {print $(NF-1), $(NF-2)}')
	od -An -v -t f4 -w4 -j "$2" -N "$3" "$1"
}
floats "$ref" >want
floats l.safetensors >got
wc -l <got | tr -d ' '
paste want got | awk '
	{ d = $1 - $2; if (d < 0) d = -d; if (d > max) max = d }
	END { if (NR == 0 || max > 2e-3) print "largest difference " max }'
# generation goes on from the last row
gptq-run "$T" -p 'In the beginning' -n 8 --temp 0 --logits l2.safetensors
only got l.safetensors l2.safetensors tensors want
