#!/bin/sh
# gpu.sh - what can only be tested where there is a GPU, in one go.
#
#	make CUDA=1 all build/release/tests/kernels/check \
#		build/release/tests/unit/test_llm_many
#	tests/kernels/gpu.sh [BUILD [PART...]]
#
#	kernels    every operation against the reference, in full
#	memcheck racecheck initcheck synccheck
#	           the same with fewer cases, under compute-sanitizer
#	text       the trained model: the CPU's text and perplexity, whole and
#	           quantized there
#	split      some blocks on the CPU: the same text
#	many       several sequences decoded together: what each gives alone, also
#	           under memcheck
#	layouts    verify --kernels for all bits, group sizes and orders
#	memory     what does not fit is exit 5, with numbers
#
# BUILD is build/release, or a folder with gptq, check, test_llm_many and
# gptq-cuda.so in it.
set -u
build=$(cd "${1:-build/release}" && pwd) || exit 2
[ $# -eq 0 ] || shift
[ $# -gt 0 ] || set -- kernels memcheck racecheck initcheck synccheck text \
	split many layouts memory
cd "$(dirname "$0")/../.." || exit 2
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
bad=0
model=tests/models/tiny
gptq=$build/gptq
check=$build/tests/kernels/check
[ -x "$check" ] || check=$build/check
synth=$build/synth

say() { printf '%s\n' "$*"; }
must() {
	what=$1
	shift
	if "$@" >"$work/out" 2>&1; then
		say "ok      $what"
	else
		say "FAILED  $what"
		tail -n 25 "$work/out"
		bad=1
	fi
}

kernels() {
	must "kernels" "$check" --device cuda
	must "kernels, generic ones forced" "$check" --quick --device cuda \
		--kernel generic
	must "kernels, mma forced" "$check" --quick --device cuda --kernel mma
	for seed in 1 2 3; do
		must "kernels, seed $seed" "$check" --quick --device cuda \
			--seed $seed
	done
}

sanitize() {
	if ! command -v compute-sanitizer >/dev/null; then
		say "skipped $1: compute-sanitizer is not installed"
		return
	fi
	for only in linear rows attend step quant refuse; do
		must "$1, $only" compute-sanitizer --tool "$1" \
			--error-exitcode 9 "$check" --quick --device cuda \
			--only $only
	done
}

# $1 is a model; the rest are options of the second run.
same_text() {
	m=$1
	shift
	"$gptq" run "$m" --device cpu --temp 0 -n 64 -p 'In the beginning' \
		>"$work/cpu.txt" || return 1
	"$gptq" run "$m" --device cuda --temp 0 -n 64 -p 'In the beginning' \
		"$@" >"$work/cuda.txt" || return 1
	diff "$work/cpu.txt" "$work/cuda.txt"
}
perplexity() {
	"$gptq" verify "$1" --ppl $model/eval.txt --seqlen 512 --device "$2" \
		--json | sed -n 's/^ *"value": *\([0-9.e+-]*\).*/\1/p'
}
# Within 0.2 % of the CPU's.
same_perplexity() {
	a=$(perplexity "$1" cpu) b=$(perplexity "$1" cuda)
	echo "CPU $a, GPU $b"
	awk -v a="$a" -v b="$b" 'BEGIN {
		exit !(a > 1 && b / a < 1.002 && a / b < 1.002) }'
}
text() {
	must "text, dense" same_text $model
	must "perplexity, dense" same_perplexity $model
	for how in "4 128 --desc-act" "8 32 --sym" "3 64 --asym" \
		"2 32 --asym"; do
		# shellcheck disable=SC2086
		set -- $how
		q=$work/q$1
		must "quantize to $1 bits" "$gptq" quantize $model -o "$q" \
			-b "$1" -g "$2" "$3" --seqlen 512 --device cuda \
			--calib $model/calibration.txt
		must "text, $1 bits" same_text "$q"
		must "perplexity, $1 bits" same_perplexity "$q"
		cat "$work/out"
	done
}

split() {
	for n in 0 1 3 5 6 auto; do
		must "text, $n blocks there" same_text $model --gpu-layers $n
	done
}

many() {
	test=$build/tests/unit/test_llm_many
	[ -x "$test" ] || test=$build/test_llm_many
	# the plug-in is looked for beside the program
	ln -s "$build/gptq-cuda.so" "$work/gptq-cuda.so"
	cp "$test" "$work/many"
	must "several sequences" "$work/many"
	! grep skipped "$work/out" || bad=1
	if command -v compute-sanitizer >/dev/null; then
		must "several sequences, memcheck" compute-sanitizer \
			--tool memcheck --error-exitcode 9 "$work/many"
	fi
}

made() { # made OPTIONS...: a small model of made-up weights
	rm -rf "$work/m"
	mkdir "$work/m"
	"$synth" "$@" "$work/m" 1 512 1536 8 4 1000
}
# All of one width; four at a time, as most of it is the start of the device.
layouts_of() {
	work=$work/$1
	mkdir "$work"
	for group in 32 64 128 4096; do
		for more in "" -a -z "-a -z"; do
			# shellcheck disable=SC2086
			made -b "$1" -g $group $more
			must "$1 bits, groups of $group $more" "$gptq" verify \
				"$work/m" --kernels --device cuda
		done
	done
}
layouts() {
	[ -x "$synth" ] || {
		synth=$work/synth
		must "synth" ${CC:-cc} -O2 -D_GNU_SOURCE -pthread \
			-o "$synth" bench/synth.c
	}
	for bits in 2 3 4 8; do
		layouts_of $bits >"$work/of$bits" &
	done
	wait
	cat "$work"/of?
	! grep -q FAILED "$work"/of? || bad=1
}

refuses() { # exit 5, and a number of the message
	"$@"
	[ $? -eq 5 ]
}
memory() {
	cp -r $model "$work/long"
	sed 's/"max_position_embeddings": 1024/"max_position_embeddings": 134217728/' \
		$model/config.json >"$work/long/config.json"
	must "a cache that does not fit" refuses "$gptq" run "$work/long" \
		-p x -n 1 -c 134217728 --device cuda --gpu-layers 6
	cat "$work/out"
}

for part in "$@"; do
	case $part in
	*check) sanitize "$part" ;;
	kernels | text | split | many | layouts | memory) "$part" ;;
	*)
		say "gpu.sh: no part $part"
		exit 2
		;;
	esac
done
exit $bad
