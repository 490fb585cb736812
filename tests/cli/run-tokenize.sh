. "$ROOT/tests/cli/lib"
printf 'In the beginning' | gptq-run "$T" --tokenize
printf 'In the beginning' | gptq-run "$T" --tokenize --no-bos
gptq-run "$T" --tokenize -p 'In the beginning'
printf 'In the beginning' | gptq-run "$T/tokenizer.model" --tokenize
printf 'In the beginning' | gptq-run "$T/model.safetensors" --tokenize
printf 'a\n' | gptq-run "$T" --tokenize --json
printf '' | gptq-run "$T" --tokenize
printf '565, 266\n1602' | gptq-run "$T" --detokenize
echo
echo 565 | gptq-run "$T" --detokenize --json
# there and back, byte for byte: text, blank ends, signs, broken UTF-8
there_and_back() {
	gptq-run "$T" --tokenize <in | gptq-run "$T" --detokenize | cmp - in
}
cp "$TEXT" in && there_and_back
printf '  two blanks\n\n\ttab \n' >in && there_and_back
printf '\303\244\342\202\254\360\237\230\200' >in && there_and_back
# only the tokenizer's files are needed
mkdir only
cp "$T/tokenizer.json" "$T/tokenizer_config.json" only
printf 'In the beginning' | gptq-run only --tokenize
