. "$ROOT/tests/cli/lib"
refused gptq-run "$T" -p a -f b
refused gptq-run "$T" --tokenize --detokenize
refused gptq-run "$T" --tokenize --ids 1
refused gptq-run "$T" --detokenize -p x
refused gptq-run "$T" --ids ''
refused gptq-run "$T" --ids 1,x
refused gptq-run "$T" --ids 1,99999 -n 1
refused gptq-run "$T" -p x --stop ''
refused gptq-run "$T" -f nowhere
refused gptq-run "$T" -p 'In the beginning' -c 3
refused gptq-run "$T" -p x --kernel quick | sed 's/ (.*//'
refused gptq-run "$T" -p x -n 0 --logits no/such/file
refused gptq-run nowhere -p x
cp -r "$T" bare
chmod -R u+w bare
rm bare/tokenizer.json bare/tokenizer.model
refused gptq-run bare -p x
refused gptq-run bare --tokenize
# ids need no tokenizer where no text is asked for
gptq-run bare --ids 1,565,266 -n 2 --temp 0 --json | grep -A 3 '"ids"'
gptq-run bare --ids 1,565,266 -n 0
echo "1 2 three" | gptq-run "$T" --detokenize
echo "status $?"
echo "1 99999" | gptq-run "$T" --detokenize
echo "status $?"
# what only gptq-repack --fix takes says so
cp -r "$T" long
chmod -R u+w long
printf 0123 >>long/model.safetensors
gptq-run long -p x -n 1
echo "status $?"
gptq-quantize long -o q --method rtn
echo "status $?"
