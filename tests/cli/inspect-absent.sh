# Folders whose weights are not here: what the small files tell is shown, then
# the failure, with its status; nothing is proposed that could not work.
. "$ROOT/tests/cli/lib"
small() { # DIR: a copy without weights
	mkdir "$1"
	cp "$Q"/*.json "$1"
	chmod u+w "$1"/*
}
small pointer
printf 'version https://git-lfs.github.com/spec/v1\noid sha256:%064d\nsize %d\n' \
	0 4867000 >pointer/model.safetensors
status gptq-inspect pointer 2>&1
gptq-inspect pointer --memory 2>err | head -n 3
cat err
status gptq-inspect pointer --doctor
gptq-inspect pointer --json >j.json 2>err
echo "status $?"
json_ok j.json
grep -A 3 '"error"' j.json
grep -E '^  "(format|bytes|parameters)"|"(bits|group_size|source|code|fix)":' j.json | sort -u

echo "-- none at all"
small none
status gptq-inspect none 2>&1 | tail -n 6
rm none/quantize_config.json
sed 's/"quantization_config": {/"other": {/' "$Q/config.json" >none/config.json
gptq-inspect none 2>/dev/null | grep format

echo "-- a shard is missing, and a name in the index"
small shards
gptq-repack "$T" -q -o cut --shard-size 1MB >out
cp cut/model-00001* shards
status gptq-inspect shards 2>&1 | sed -n '1p; $p'
cp cut/*.index.json shards
status gptq-inspect shards 2>&1 | sed -n '1p; $p'

echo "-- what needs the weights, or is no folder, is refused"
for option in --tensors --layers --stats --hash --kernels "--diff $Q" \
	"--html page.html" "--tensor lm_head"; do
	# shellcheck disable=SC2086
	refused gptq-inspect pointer $option
done
refused gptq-inspect pointer/model.safetensors
mkdir alone
cp pointer/model.safetensors alone
refused gptq-inspect alone
refused gptq-repack pointer -o out2
# what is there and broken is not absent
small broken
echo nonsense >broken/model.safetensors
refused gptq-inspect broken
