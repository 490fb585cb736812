# Files of the original packers through the whole program: each is written back
# byte for byte, and v1 and v2 become each other's bytes.
. "$ROOT/tests/cli/lib"
golden=$ROOT/tests/golden

# folder CASE FILE FORMAT: the file as a checkpoint, with the case's config
folder() {
	rm -rf in
	mkdir in
	cp "$2" in/model.safetensors
	sed -n '/^ "quantization_config": {/,/^ }/p' "$1/case.json" |
		sed "s/^ \"quantization_config\": {/{/
			s/\"checkpoint_format\": \".*\"/\"checkpoint_format\": \"$3\"/" \
			>in/quantize_config.json
}

# repack FORMAT WANT: into it, and is it that file?
repack() {
	rm -rf out
	gptq-repack in -q -o out --to "$1" >/dev/null 2>err ||
		{ echo "$name to $1: status $?: $(head -n 1 err)"; return 0; }
	if cmp -s out/model.safetensors "$2"; then
		same=$((same + 1))
	else
		echo "$name to $1: other bytes"
	fi
}

# AutoGPTQ's packer damaged the zeros of v1_zero0 (a zero of 0 borrows from its
# neighbours): they are kept as they are, and not turned into a v2 that would
# be wrong.  v1_scales_f32_b4 has its tensors in an order that the reference
# writer of safetensors does not make; only the order differs.
same=0
for case in "$golden"/gptq_v1/v1_*; do
	name=${case##*/}
	folder "$case" "$case/model.safetensors" gptq
	repack gptq "$case/model.safetensors"
	case $name in
	v1_zero0*) repack gptq_v2 /dev/null ;;
	v1_scales_f32_b4)
		gptq-inspect in --hash >hash
		gptq-inspect out --hash | cmp hash - && echo "$name: same tensors"
		;;
	esac
done
echo "v1: $same the same"
# v2 with its v1 by two other programs, both ways.  v2_zero0 has zeros of 0:
# gptqmodel's v1 of it can be undone by gptqmodel's own arithmetic alone, and
# only where the config names it (tests/unit does); we write no such v1.
same=0
for case in "$golden"/gptq_v2/v2_*; do
	name=${case##*/}
	folder "$case" "$case/model.safetensors" gptq_v2
	repack gptq_v2 "$case/model.safetensors"
	repack gptq "$case/v1.safetensors"
	folder "$case" "$case/v1.safetensors" gptq
	repack gptq_v2 "$case/model.safetensors"
done
echo "v2: $same the same"
