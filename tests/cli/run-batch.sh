. "$ROOT/tests/cli/lib"
printf 'In the beginning\n\nThe day\r\nOnce' >prompts
gptq-run "$T" --batch-file prompts -n 5 --temp 0 >answers
cat answers
# each line is the answer of a call of its own, also with a seed
gptq-run "$T" --batch-file prompts -n 5 --seed 7 | sed -n 's/.*"text":\(".*"\),"ids.*/\1/p' >batch
for p in 'In the beginning' 'The day' 'Once'; do
	gptq-run "$T" -p "$p" -n 5 --seed 7 --json | sed -n 's/^  "text": \(.*\),$/\1/p'
done | cmp - batch
# JSON lines by the name, or by the first line; an id comes back
printf '{"prompt": "In the beginning", "id": "a"}\n{"prompt": "x", "id": [1, null]}\n' >p.jsonl
gptq-run "$T" --batch-file p.jsonl -n 2 --temp 0
gptq-run "$T" --batch-file - -n 2 --temp 0 <p.jsonl | wc -l
gptq-run "$T" --batch-file p.jsonl -n 2 --temp 0 --json >r.json
json_ok r.json
gptq-run "$T" --batch-file prompts -n 2 --temp 0 --chat --chat-template llama-2 | cut -c 1-10
# nothing is answered before all prompts are read
printf '{"prompt": "x"}\n{"id": 1}\n' >bad.jsonl
refused gptq-run "$T" --batch-file bad.jsonl
printf '{"prompt": "x"}\n{"prompt": "y"\n' >bad.jsonl
refused gptq-run "$T" --batch-file bad.jsonl
printf '\n\n' >empty
refused gptq-run "$T" --batch-file empty
printf 'a\000b\n' >nul
refused gptq-run "$T" --batch-file nul
refused gptq-run "$T" --batch-file nowhere
refused gptq-run "$T" --batch-file prompts -c 3
refused gptq-run "$T" --batch-file prompts -p x
refused gptq-run "$T" --batch-file prompts --logits x
# an object that is broken is no prompt, what an editor puts in front neither
printf '{"prompt": "x"\n' >broken
refused gptq-run "$T" --batch-file broken
printf '{"prompt": "a\\u0000b"}\n' >broken
refused gptq-run "$T" --batch-file broken
printf '\357\273\277{"prompt": "In the beginning"}\n' >bom
gptq-run "$T" --batch-file bom -n 2 --temp 0
# an output that cannot be is told before the work
refused gptq-run "$T" -p x --logits -
refused gptq-inspect "$T" --html none/x --stats
refused gptq-verify "$Q" --junit none/x
refused gptq-verify "$Q" --write-manifest -
only answers bad.jsonl batch bom broken empty nul p.jsonl prompts r.json
