# Checkpoints with something wrong: one clear line, the right status, nothing
# left behind, whichever applet meets them.
. "$ROOT/tests/cli/lib"
all() { # FOLDER
	echo "== $1"
	refused gptq-inspect "$1"
	refused gptq-verify "$1"
	refused gptq-repack "$1" -q -o out
	refused gptq-quantize "$1" -q -o out --method rtn
	refused gptq-run "$1" -q -p Once -n 1 --temp 0
}
gptq-repack "$Q" -q -o shards --shard-size 1MB >/dev/null
first=$(ls shards/model-00001-of-*.safetensors)

cp -r "$Q" no-weights && rm no-weights/model.safetensors
all no-weights
cp -r shards no-shard && rm "no-shard/${first##*/}"
all no-shard
cp -r shards cut
head -c 100000 "$first" >"cut/${first##*/}"
all cut
cp -r "$Q" cut-header
head -c 4000 "$Q/model.safetensors" >cut-header/model.safetensors
all cut-header
cp -r "$Q" one-byte-less
head -c -1 "$Q/model.safetensors" >one-byte-less/model.safetensors
all one-byte-less
cp -r "$Q" pointer
printf 'version https://git-lfs.github.com/spec/v1\noid sha256:%064d\nsize 4833800\n' \
	0 >pointer/model.safetensors
all pointer
cp -r "$Q" bad-config
printf '{"architectures": [' >bad-config/config.json
all bad-config
rm -rf no-* cut* one-byte-less pointer bad-config shards
only
