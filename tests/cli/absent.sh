# What is not there yet ends with status 4 and a plain sentence.
. "$ROOT/tests/cli/lib"
refused gptq-quantize "$T" -o q --calib x --plan
refused gptq-quantize "$T" -o q --calib x --max-memory 4G
refused gptq-quantize "$T" -o q --calib x --max-device-memory 4G
refused gptq-quantize "$T" -o q --calib x --method gptaq
refused gptq-repack "$Q" -o r --dtype f32
refused gptq-run "$Q" --chat
refused gptq-run "$Q" --bench
refused gptq-run "$Q" --batch-file x
only
