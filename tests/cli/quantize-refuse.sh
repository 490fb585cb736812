. "$ROOT/tests/cli/lib"
few="--calib $T/calibration.txt --samples 2 --seqlen 64"
refused gptq-quantize "$T"
refused gptq-quantize "$T" -o q
refused gptq-quantize "$T" -o q --method rtn --desc-act
refused gptq-quantize "$T" -o q --method rtn --static-groups
refused gptq-quantize "$T" -o q --method rtn --act-group-aware
refused gptq-quantize "$T" -o q --calib x --act-group-aware --desc-act
refused gptq-quantize "$T" -o q --method rtn -g 0
refused gptq-quantize "$T" -o q --method gptaq
refused gptq-quantize "$T" -o q --method gptaq --calib x --no-true-sequential
# shellcheck disable=SC2086
{
	refused gptq-quantize "$T" -o q --calib "$T/calibration.txt" --seqlen 4096
	refused gptq-quantize "$T" -o q --calib "$T/eval.txt"
	refused gptq-quantize "$T" -o q --calib nowhere.txt
	refused gptq-quantize nowhere -o q $few
	refused gptq-quantize "$T" -o no/such/q $few
	refused gptq-quantize "$T" -o q $few --log no/such/log
	refused gptq-quantize "$T" -o q $few --report no/such/report
	refused gptq-quantize "$T" -o q $few --report /dev/full
	refused gptq-quantize "$T" -o q $few --device cuda:99 | sed 's/cuda:99.*/cuda:99/'
	# quantized already: a second line says what to do
	gptq-quantize "$Q" -o q $few
	echo "status $?"
	only
	# a file of weights alone does not tell its architecture
	cp "$T/model.safetensors" .
	refused gptq-quantize model.safetensors -o q --method rtn
	rm model.safetensors
	# an output that exists is never touched without --force
	mkdir q
	echo mine >q/file
	refused gptq-quantize "$T" -o q $few
	cat q/file
	gptq-quantize "$T" -q -o q $few --force
	[ -e q/file ] && echo "the old folder is still there"
	gptq-verify -q q >/dev/null || echo "q does not verify"
	echo mine >file
	refused gptq-quantize "$T" -o file $few -f
	cat file
}
only file q
