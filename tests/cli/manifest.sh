. "$ROOT/tests/cli/lib"
gptq-verify "$Q" -q --write-manifest m.json >/dev/null
json_ok m.json
gptq-verify "$Q" --manifest m.json
# independent of sharding
gptq-repack "$Q" -q -o shards --shard-size 1MB
gptq-verify shards --manifest m.json
# one byte of one tensor, and one of a small file
copy_q changed
printf 'X' | dd of=changed/model.safetensors bs=1 seek=4000000 conv=notrunc \
	2>/dev/null
gptq-verify changed --manifest m.json | grep manifest
copy_q config
echo >>config/tokenizer_config.json
gptq-verify config --manifest m.json | grep manifest
refused gptq-verify "$Q" --manifest nowhere.json
echo '{"manifest": 2}' >other.json
refused gptq-verify "$Q" --manifest other.json
