. "$ROOT/tests/cli/lib"
m=$T
# a mistyped option gets the nearest name
refused gptq-inspect "$m" --tensor-s
refused gptq-inspect "$m" --layer=3
refused gptq-inspect "$m" --dcotor
refused gptq-quantize "$m" --smaples 3
refused gptq-verify "$m" --wholly-unknown-thing
refused gptq-run "$m" -x
refused gptq-run "$m" --json -zq
# values
refused gptq-run "$m" -n
refused gptq-run "$m" --tokens abc
refused gptq-run "$m" --tokens 12x
refused gptq-run "$m" --tokens -2
refused gptq-run "$m" --temp warm
refused gptq-run "$m" --top-p 1.5
refused gptq-run "$m" --quiet=1
refused gptq-run "$m" --top 1
refused gptq-quantize "$m" -b 5
refused gptq-quantize "$m" --method gptqq
refused gptq-quantize "$m" --shard-size much
refused gptq-inspect "$m" --device gpu
refused gptq-inspect "$m" --color=sometimes
refused gptq-inspect "$m" -t -1
# operands
refused gptq-inspect
refused gptq-inspect "$m" other
status gptq-quantize --calib a b "$m"
# an unambiguous beginning is enough, -- ends the options
gptq-inspect "$m" --fil
gptq-inspect --files -- "$m"
