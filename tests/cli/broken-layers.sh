# Well-formed files whose tensors do not fit: verify reports them with status
# 1, the others refuse them.
. "$ROOT/tests/cli/lib"
head0='"model.layers.0.mlp.up_proj'
all() { # FOLDER
	echo "== $1"
	gptq-verify "$1" >report
	echo "status $?"
	sed -n 1,3p report
	[ "$1" = missing-norm ] || # not a repacker's business
		refused gptq-repack "$1" -q -o out --to gptq_v2
	refused gptq-run "$1" -q -p Once -n 1 --temp 0
	rm -rf out report
}
copy_q shape
# [K/8, N] = [32, 768] the wrong way round has as many bytes
grep -qaF "$head0.qweight\":{\"dtype\":\"I32\",\"shape\":[32,768]" \
	shape/model.safetensors || fail "the header is not as this test thinks"
patch_header shape/model.safetensors \
	"$head0.qweight\":{\"dtype\":\"I32\",\"shape\":[32,768]" \
	"$head0.qweight\":{\"dtype\":\"I32\",\"shape\":[768,32]"
all shape
copy_q missing-scales
patch_header missing-scales/model.safetensors "$head0.scales" "$head0.scalez"
all missing-scales
copy_q missing-norm
patch_header missing-norm/model.safetensors \
	'"model.layers.2.input_layernorm.weight"' \
	'"model.layers.2.input_layernorm.wrongs"'
all missing-norm
copy_q type
patch_header type/model.safetensors \
	"$head0.scales\":{\"dtype\":\"F16\"" "$head0.scales\":{\"dtype\":\"I16\""
all type
# two maps, as of layers that were joined: no damage, and not read; the tensor
# is named once
copy_q joined
down='"model.layers.0.mlp.down_proj'
patch_header joined/model.safetensors \
	"$down.qweight\":{\"dtype\":\"I32\",\"shape\":[96,256]" \
	"$down.qweight\":{\"dtype\":\"I32\",\"shape\":[48,512]"
patch_header joined/model.safetensors \
	"$down.qzeros\":{\"dtype\":\"I32\",\"shape\":[6,32]" \
	"$down.qzeros\":{\"dtype\":\"I32\",\"shape\":[3,64]"
patch_header joined/model.safetensors \
	"$down.scales\":{\"dtype\":\"F16\",\"shape\":[6,256]" \
	"$down.scales\":{\"dtype\":\"F16\",\"shape\":[3,512]"
status gptq-repack joined -q -o out 2>&1
# a dense model without one of its tensors is no input for the quantizer
cp -r "$T" dense
chmod -R u+w dense
patch_header dense/model.safetensors '"model.layers.4.mlp.gate_proj.weight"' \
	'"model.layers.4.mlp.gate_proj.weighs"'
refused gptq-quantize dense -q -o out --method rtn
rm -rf shape missing-* type joined dense
only
