# Overrides for single modules, and the output head: written, and read back by
# every applet.
. "$ROOT/tests/cli/lib"
few="--calib $T/calibration.txt --samples 2 --seqlen 64"
# shellcheck disable=SC2086
mixed() {
	gptq-quantize "$T" -q $few -g 64 --lm-head "$@" \
		--rule '.*down_proj:bits=8,group_size=32' \
		--rule '.*layers\.0\..*(q|k|v)_proj:skip' \
		--rule '.*\.1\..*q_proj:desc_act=true' \
		--rule '.*\.2\..*(gate|up)_proj:sym=false,bits=3'
}
mixed -o q -t 1 >/dev/null
mixed -o q3 -t 3 >/dev/null
diff -r q q3
sed -n '/lm_head/p;/dynamic/,/^  }/p' q/quantize_config.json
gptq-inspect q --layers --match 'layers\.[012]|lm_head' |
	awk '{print $1, $2, $3, $4, $5, $6, $7, $8}'
gptq-verify -q q >/dev/null || echo "q does not verify"
gptq-run q -p Once -n 4 --temp 0 -q >/dev/null || echo "q does not run"
# through another layout and back the same bytes and rules
gptq-repack q -q -o v2 --to gptq_v2 >/dev/null
gptq-repack v2 -q -o back --to gptq >/dev/null
cmp q/model.safetensors back/model.safetensors
diff q/quantize_config.json back/quantize_config.json
# a tied head gets a matrix of its own
mkdir tied
for f in tokenizer.model model.safetensors tokenizer_config.json; do
	ln -s "$T/$f" tied/$f
done
sed 's/"tie_word_embeddings": false/"tie_word_embeddings": true/' \
	"$T/config.json" >tied/config.json
# shellcheck disable=SC2086
gptq-quantize tied -o untied $few --lm-head 2>&1 | head -n 1
grep tie_word untied/config.json
gptq-verify -q untied --against tied >/dev/null || echo "untied does not verify"
gptq-inspect untied --layers --match lm_head | tail -n 1 | awk '{print $1, $4}'
# what cannot be meant is refused before anything is read
refused gptq-quantize "$T" -o x --method rtn --rule '.*nothing:bits=8'
refused gptq-quantize "$T" -o x --method rtn --rule 'lm_head:bits=8'
refused gptq-quantize "$T" -o x --method rtn --rule '.*:bits=9'
refused gptq-quantize "$T" -o x --method rtn --rule '(:bits=8'
refused gptq-quantize "$T" -o x --method rtn --rule '.*q_proj:desc_act=1'
refused gptq-quantize "$T" -o x --method rtn --format marlin --rule '.*q_proj:skip'
refused gptq-quantize "$T" -o x --method rtn --rule '.*:skip'
# linears that some readers run as one should be alike
gptq-quantize "$T" -o v --method rtn --rule '.*\.v_proj:bits=8' 2>&1 | head -n 1
