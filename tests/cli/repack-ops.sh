# Changes that keep every weight: what the plan says, and the text stays.
. "$ROOT/tests/cli/lib"
text() {
	gptq-run "$1" -q -p 'Once upon' -n 16 --temp 0 2>/dev/null
}
text "$Q" >want
same() {
	text "$1" >have
	cmp want have || echo "$1: another text"
}
gptq-repack "$Q" --plan --bits 8 --group-size 32 --pad-mlp 512 | head -n 4
gptq-repack "$Q" -o all --bits 8 --group-size 32 --pad-mlp 512
gptq-inspect all | sed -n '/bits /p; /group/p'
grep intermediate all/config.json
same all
# wider codes than asked for, larger groups, groups that are not whole
status gptq-repack "$Q" -o no --bits 3 2>&1
status gptq-repack "$Q" -o no --group-size 256 2>&1
status gptq-repack "$Q" -o no --pad-mlp 1000 2>&1
status gptq-repack "$Q" -o no --to dense --bits 8 2>&1
# act-order: sorted rows and back, and where it cannot be dropped
gptq-quantize "$T" -q -o act --calib "$T/calibration.txt" --samples 2 \
	--seqlen 64 --desc-act >/dev/null
text act >want
gptq-repack act -o sorted --act-order sort
same sorted
gptq-repack sorted -q -o back >/dev/null
cmp act/model.safetensors back/model.safetensors
status gptq-repack act -o no --act-order drop 2>&1
gptq-repack act --plan --act-order drop | sed -n '/layers.0/p'
# the planar layout
gptq-repack "$Q" -q -o planar --to gptq_p >/dev/null
gptq-repack planar -q -o flat >/dev/null
cmp "$Q/model.safetensors" flat/model.safetensors
# a refusal says which step would help
gptq-quantize "$T" -q -o three --method rtn --sym -b 3 >/dev/null
status gptq-repack three -o no --to awq 2>&1
gptq-repack three -q -o four --to awq --bits 4
gptq-quantize "$T" -q -o two --method rtn --rule '.*down_proj:group_size=64' \
	>/dev/null
status gptq-repack two -o no --to awq 2>&1
gptq-repack two -q -o one --to awq --group-size 64
# sym against the zeros: the weights decide, and it is said how
gptq-quantize "$T" -q -o asym --method rtn --asym >/dev/null
chmod -R u+w asym
sed -i 's/"sym": *false/"sym": true/' asym/config.json asym/quantize_config.json
gptq-repack asym -o fixed --fix 2>&1 | grep -E 'note|sym'
cmp asym/model.safetensors fixed/model.safetensors
copy_q q
sed -i 's/w\{64\}/UUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUU/g' \
	q/model.safetensors
gptq-repack q -o middle --fix 2>&1 | grep -E 'note|sym'
cmp "$Q/model.safetensors" middle/model.safetensors
