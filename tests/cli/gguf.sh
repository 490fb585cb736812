. "$ROOT/tests/cli/lib"
# dense: a file of its own, which runs as the folder does
gptq-repack "$T" -o t.gguf --to gguf -q
gptq-inspect t.gguf | grep -E 'architecture|vocabulary|format'
gptq-run "$T" -p 'Once upon a time' -n 20 --temp 0 -q >folder.txt
gptq-run t.gguf -p 'Once upon a time' -n 20 --temp 0 -q >file.txt
cmp folder.txt file.txt && echo "the same text"
gptq-run "$T" --tokenize <"$TEXT" >folder.ids
gptq-run t.gguf --tokenize <"$TEXT" >file.ids
cmp folder.ids file.ids && echo "the same ids"
gptq-inspect t.gguf --diff "$T" | grep equal
q=model.layers.0.self_attn.q_proj.weight
gptq-inspect "$T" --tensor $q --raw >folder.q
gptq-inspect t.gguf --tensor $q --raw | cmp - folder.q && echo "the same rows"
# quantized, in a folder, and back: the same bytes
gptq-repack "$Q" -o g --to gguf
ls g
gptq-inspect g | sed -n '/format/,/per weight/p'
gptq-inspect g/model.gguf --tensors --match 'layers.0.*(q_proj|input)' |
	awk '{print $1, $2, $3, $4}'
gptq-repack g -o back --to gptq -q
cmp "$Q/model.safetensors" back/model.safetensors && echo "the same weights"
ls back
gptq-run back --tokenize <"$TEXT" | cmp - folder.ids && echo "the same ids"
gptq-repack t.gguf -o dense -q
cmp "$T/model.safetensors" dense/model.safetensors && echo "the same weights"
gptq-verify g/model.gguf --against "$T" -q >/dev/null
status gptq-verify g -q
# steps on the way
gptq-repack "$Q" -o p.gguf --to gguf -q --pad-mlp 1024 --group-size 64
gptq-inspect p.gguf | grep -E 'shape|group'
refused gptq-repack "$T" -o d.gguf --to gguf --pad-mlp 1024
# zero points take eight bits, or are rounded if that is allowed
gptq-quantize "$T" -q -o a --method rtn --asym -g 64
gptq-repack a -o a8.gguf --to gguf -q --json | grep -E 'proven|rounded'
gptq-repack a -o a4.gguf --to gguf -q --lossy --json |
	grep -E '"rounded"|"worst|"mean' | sed 's/: [0-9.e-]*[1-9][0-9.e-]*/: N/'
gptq-inspect a8.gguf --tensors --match 'q_proj' | awk '{print $2}' | sort -u
gptq-inspect a4.gguf --tensors --match 'q_proj' | awk '{print $2}' | sort -u
# rounded, they are offsets, which no other layout has
status gptq-repack a4.gguf -o no 2>&1
# what is refused
gptq-quantize "$T" -q -o act --method gptq --desc-act \
	--calib "$TEXT" --samples 4 --seqlen 64
gptq-repack act -o act.gguf --to gguf
echo "status $?"
refused gptq-repack "$Q" -o g/model.gguf --to gguf
printf 'GGUF\001\0\0\0' >old.gguf
head -c 100 t.gguf >cut.gguf
refused gptq-inspect cut.gguf
head -c 32 /dev/zero >>old.gguf
refused gptq-inspect old.gguf
# the plan too knows what the file has no word for
mkdir dyn
cp "$T/model.safetensors" dyn
sed 's/"rope_scaling": null/"rope_scaling": {"type": "dynamic", "factor": 2.0}/' \
	"$T/config.json" >dyn/config.json
refused gptq-repack dyn --plan --to gguf
