#!/bin/sh
# gpu.sh - what can only be tested where there is a GPU, in one go.
#
#	make CUDA=1 all build/release/tests/kernels/check
#	tests/kernels/gpu.sh [build/release]
#
# The kernels against the reference, in full and then, with fewer cases, under
# compute-sanitizer where it is installed; then the trained model on the GPU
# beside the CPU: the same greedy text, the same quality when quantized there.
set -u
build=$(cd "${1:-build/release}" && pwd) || exit 2
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
bad=0

say() { printf '%s\n' "$*"; }
must() {
	what=$1
	shift
	if "$@" > "$work/out" 2>&1; then
		say "ok      $what"
	else
		say "FAILED  $what"
		tail -n 25 "$work/out"
		bad=1
	fi
}

# The plug-in is looked for beside the program.
ln -sf "$build/gptq-cuda.so" "$build/tests/kernels/gptq-cuda.so"
check=$build/tests/kernels/check
must "kernels" "$check" --device cuda
must "kernels, generic ones forced" "$check" --quick --device cuda \
	--kernel generic
for seed in 1 2 3; do
	must "kernels, seed $seed" "$check" --quick --device cuda --seed $seed
done
if command -v compute-sanitizer > /dev/null; then
	for tool in memcheck racecheck initcheck synccheck; do
		must "$tool" compute-sanitizer --tool $tool --error-exitcode 9 \
			"$check" --quick --device cuda
	done
else
	say "skipped compute-sanitizer: not installed"
fi

model=tests/models/tiny
gptq=$build/gptq
same_text() {
	for dev in cpu cuda; do
		"$gptq" run "$1" --device $dev --temp 0 -n 64 \
			-p 'In the beginning' > "$work/$dev.txt" || return 1
	done
	diff "$work/cpu.txt" "$work/cuda.txt"
}
# A layer quantized there is as good as one quantized here.
quality() {
	"$gptq" verify "$1" --against $model --ppl $model/eval.txt \
		--seqlen 512 --max-ppl-ratio "$2" --device "$3"
}
must "greedy text, dense" same_text $model
for how in "4 128 --desc-act 1.1" "8 32 --sym 1.01" "3 64 --asym 1.5"; do
	set -- $how
	q=$work/q$1
	must "quantize to $1 bits" "$gptq" quantize $model -o "$q" -b $1 \
		-g $2 $3 --calib $model/calibration.txt --seqlen 512 \
		--device cuda
	must "perplexity there, $1 bits" quality "$q" $4 cuda
	grep -i perplexity "$work/out"
	must "perplexity on the CPU, $1 bits" quality "$q" $4 cpu
	grep -i perplexity "$work/out"
	must "greedy text, $1 bits" same_text "$q"
done
exit $bad
