# Checkpoints on servers: the same answers as of local ones, few bytes, and a
# plain sentence about servers that do not play by the rules.
. "$ROOT/tests/cli/lib"
[ -x "$GPTQ_BIN/tests/server" ] || skip "the test server is not built"
export no_proxy='*' HOME="$PWD" HF_HUB_DOWNLOAD_TIMEOUT=1
unset HF_TOKEN HF_TOKEN_PATH HF_HOME HF_ENDPOINT XDG_CACHE_HOME

mkdir root root/org root/gated root/private
mkdir root/org/tiny
ln -s "$T/config.json" "$T/generation_config.json" "$T/model.safetensors" \
	root/org/tiny
ln -s "$Q" root/org/q
ln -s "$T" root/gated/tiny
ln -s "$T" root/private/tiny
mkdir root/org/old
cp "$Q/config.json" "$Q/quantize_config.json" root/org/old
cp "$Q/model.safetensors" root/org/old/gptq_model-4bit-128g.safetensors
mkfifo in
"$GPTQ_BIN/tests/server" root log <in >ports &
exec 9>in
while [ ! -s ports ]; do sleep 0.05; done
read -r one two <ports
at=http://127.0.0.1:$one
export HF_ENDPOINT="$at/hub" # only what is below it is the hub
# ports vary, and so does the order of what runs side by side
hosts() {
	sed "s/127.0.0.1:$one/ONE/g; s/127.0.0.1:$two/TWO/g; s/localhost:$two/OTHER/g"
}

echo "-- the same as local"
same() { # LOCAL ADDRESS OPTIONS...
	path=$1 address=$2
	shift 2
	gptq-inspect "$path" "$@" | sed "s|$path|PATH|" |
		sed "s|PATH -o $path-|${path##*/} -o ${path##*/}-|" >a
	gptq-inspect "$address" "$@" >b.raw
	address=${address%%\?*}
	# of zeros and g_idx only some are looked at
	sed "s|${address%/}|PATH|; s/none at a glance/none/
		s/\"glance\": true/\"glance\": false/" b.raw >b
	cmp a b || diff a b
}
same "$T" "$at/ok/org/tiny/" --json
same "$T" "$at/bare/org/tiny" --tensors
same "$T" "$at/moved/org/tiny" --layers
same "$T" "$at/busy/org/tiny" --files
same "$T" "$at/cutonce/org/tiny"
same "$T" hf:org/tiny --json
same "$Q" hf:org/q --json
same "$Q" "hf:org/q@refs/pr/1" --doctor
same root/org/old "$at/ok/org/old" --json
same root/org/old "$at/bare/org/old" --json
same "$Q/model.safetensors" "$at/bare/org/q/model.safetensors?x=1" --json
same "$Q" "$HF_ENDPOINT/org/q" --layers
# the config is silent, the tensors are not
mkdir root/org/act
cp "$ROOT/tests/golden/gptq_v1/v1_b4_g32_sym_act_cuda/model.safetensors" \
	root/org/act
same root/org/act hf:org/act --layers
# what the config says is held against the layers that are looked at
cp -r "$Q" root/org/liar
chmod -R u+w root/org/liar
sed -i 's/"sym": true/"sym": false/' root/org/liar/*.json
same root/org/liar hf:org/liar --json
same root/org/liar hf:org/liar --doctor 2>/dev/null
# a linear of each kind is fetched to be tried
same "$Q" hf:org/q --kernels
same "$Q" hf:org/q --tensor model.layers.1.mlp.up_proj
same "$Q" hf:org/q --tensor model.norm.weight --head 4
same "$Q" hf:org/q --stats --match layers.2.mlp

echo "-- a plan of quantizing"
plan() {
	gptq-quantize "$1" --plan --json --max-memory 1GiB -t 2 --device cpu |
		grep -Ev '"(model|seconds|free|device)"'
}
plan "$T" >a
: >log
plan hf:org/tiny >b
cmp a b && grep -c '"bytes"' b
grep -c bytes= log
status gptq-quantize hf:org/tiny -o q --method rtn 2>&1
status gptq-quantize hf:org/q --plan 2>&1

echo "-- what is asked for"
: >log
gptq-inspect hf:org/tiny --files
sort log

echo "-- the token goes to the hub and to nobody else"
status gptq-inspect hf:private/tiny 2>&1
mkdir -p .cache/huggingface
echo right >.cache/huggingface/token
: >log
gptq-inspect hf:private/tiny --files
HF_TOKEN=wrong status gptq-inspect hf:private/tiny 2>&1
HF_TOKEN='a b' status gptq-inspect hf:private/tiny 2>&1
gptq-inspect "http://127.0.0.1:$two/bare/org/tiny" --files
grep -c token log
grep -c '^2.* token' log

echo "-- what is not there"
rm -r .cache
for a in hf:org/none hf:gated/tiny hf:org hf:org/tiny@; do
	status gptq-inspect $a 2>&1
done
status gptq-inspect hf:org/q --hash 2>&1 | sed 's/[0-9][0-9]* bytes/N bytes/'
status gptq-verify hf:org/q 2>&1
# a PyTorch file of 100 MB has its parts all over the place
mkdir root/org/pt
printf 'PK\003\004' >root/org/pt/pytorch_model.bin
truncate -s 100000000 root/org/pt/pytorch_model.bin
status gptq-inspect hf:org/pt 2>&1
HF_ENDPOINT=nowhere status gptq-inspect hf:org/q 2>&1

echo "-- servers that do not do as they should"
bad='401 403 404 norange endless cut long shift short zip down wait far loop'
for mode in $bad stall; do
	(status gptq-inspect -q "$at/$mode/org/q/model.safetensors" --files \
		>"bad.$mode" 2>&1) &
	pids="${pids:-} $!"
done
# shellcheck disable=SC2086
wait $pids
for mode in $bad stall; do
	# of several files that fail, any may be the first
	sed 's/[a-z_.]*\.json/FILE/g; s/model\.safetensors/FILE/g' "bad.$mode" |
		sed 's/with [0-9]* bytes/with N bytes/'
done | hosts
gptq-inspect -q "$at/slow/org/tiny" --files
# a file that is another one at the second look
status gptq-inspect -q "$at/grow/org/q/model.safetensors" \
	--tensor model.layers.1.mlp.up_proj 2>&1 | hosts

echo "-- interrupted"
: >log
gptq-inspect "$at/stall/org/q/" >out 2>&1 &
pid=$!
while ! grep -q '/stall/org/q/config.json' log; do sleep 0.05; done
kill -TERM $pid
wait $pid
echo "status $?"
cat out
exec 9>&-
wait
