# What a run would take: of any model, also where only configs are there, and
# nothing is written.
. "$ROOT/tests/cli/lib"
config() { # NAME HIDDEN MLP BLOCKS HEADS KV VOCAB
	mkdir "$1"
	cat >"$1/config.json" <<-END
	{"architectures": ["LlamaForCausalLM"], "model_type": "llama",
	"hidden_size": $2, "intermediate_size": $3, "num_hidden_layers": $4,
	"num_attention_heads": $5, "num_key_value_heads": $6,
	"vocab_size": $7, "rms_norm_eps": 1e-05, "hidden_act": "silu",
	"max_position_embeddings": 4096, "tie_word_embeddings": false,
	"torch_dtype": "float16"}
	END
}
plan() {
	gptq-quantize "$@" --plan -t 2 --device cpu |
		sed -E 's/[0-9.]+ [KMGT]iB are free/N are free/'
}
config llama-2-7b 4096 11008 32 32 32 32000
config llama-2-13b 5120 13824 40 40 40 32000
config llama-2-70b 8192 28672 80 64 8 32000
config llama-3.1-405b 16384 53248 126 128 8 128256
plan llama-2-7b --max-memory 16GiB
plan llama-2-13b -q --max-memory 16GiB -b 3 -g -1 --asym
plan llama-2-70b -q --max-memory 64GiB --samples 16 2>/dev/null
plan llama-3.1-405b -q --max-memory 64GiB --lm-head --samples 16 \
	2>/dev/null # the disk may be too small
# sizes are the index's, where there is one
echo '{"metadata": {"total_size": 13476839424}, "weight_map": {}}' \
	>llama-2-7b/model.safetensors.index.json
plan llama-2-7b -q --max-memory 16GiB --method rtn
# of weights that are there, and as JSON
plan "$T" --max-memory 100MiB --samples 64 --seqlen 512 \
	--rule '.*down_proj:skip'
gptq-quantize "$T" --plan --json --max-memory 1GiB --samples 64 -t 2 \
	--device cpu >plan.json
json_ok plan.json
grep -E '"(bytes|bytes_before|linears|passes|problem|limit)":' plan.json |
	grep -v '"bytes": [0-9]\{8,\}'
# what does not fit is printed too, and ends as the run would
gptq-quantize llama-2-7b --plan -q --max-memory 1GiB -t 2 --device cpu >plan
echo "status $?"
grep -c . plan
gptq-quantize llama-2-7b --plan -q --json --max-memory 1GiB >plan.json
echo "status $?"
grep '"problem"' plan.json
json_ok plan.json
# refused as a run is
refused gptq-quantize "$Q" --plan 2>&1 | head -n 2
refused gptq-quantize "$T" --plan -b 3 --format marlin
refused gptq-quantize "$T" --plan --rule 'nothing:bits=8'
refused gptq-quantize "$T" --plan --device cpu --max-device-memory 1GiB
refused gptq-quantize nowhere --plan
echo '{}' >llama-2-13b/config.json
refused gptq-quantize llama-2-13b --plan
rm plan plan.json
only llama-2-13b llama-2-70b llama-2-7b llama-3.1-405b
