. "$ROOT/tests/cli/lib"
few="--calib $T/calibration.txt --samples 4 --seqlen 64"
# stdout is the path, stderr one line; the log has a line for each linear
# shellcheck disable=SC2086
gptq-quantize "$T" -o q $few --desc-act --log q.csv --report q.json 2>err
sed -E 's/0\.[0-9]{4}/ERROR/g' err
ls q
head -n 1 q.csv
wc -l <q.csv | tr -d ' '
cut -d, -f1 q.csv | sed -n '2,9p'
awk -F, 'NR > 1 && !($4 > 0 && $5 > 0 && $5 < 1 && $6 >= 0.01 && $8 > 0 && $8 < $9) {print "odd: " $0}' q.csv
json_ok q.json
grep -c '"rel_error"' q.json
grep -E '"(damp-percent|calib|verdict|weights|version)": ' q.json | sed -E 's/[0-9a-f]{32}/HASH/'
grep -E '"(bits|group_size|sym|desc_act|samples|seqlen|format|method)"' q.json
gptq-verify -q q >/dev/null || echo "q does not verify"
# exact ids
# shellcheck disable=SC2086
gptq-quantize "$T" -q -o ids --calib "$T/calibration-ids.safetensors" \
	--samples 2 --seqlen 64 -b 8 -g 32 --asym
gptq-inspect ids | sed -n '/format/,/symmetric/p'
# round to nearest wants no text; shards
gptq-quantize "$T" -q -o rtn --method rtn -b 3 -g -1 --shard-size 1MB \
	--format gptq_v2
gptq-inspect rtn | sed -n '/size/,/symmetric/p'
ls rtn | grep -c 'model-0000.-of-0000..safetensors$'
gptq-verify -q rtn >/dev/null || echo "rtn does not verify"
# JSON instead of the path
gptq-quantize "$T" -q -o j --method rtn --json >j.json
json_ok j.json
# the model's path from standard input, with other text behind it
printf '%s\nmore\n' "$T" | gptq-quantize - -q -o stdin --method rtn
# the default of --seqlen gives way to the model's context
gptq-quantize "$T" -q -o long --calib "$T/calibration.txt" --samples 1 --json |
	grep '"seqlen"'
# which linears lost unusually much, and a rule that can be used as it is
# shellcheck disable=SC2086
gptq-quantize "$T" -o odd $few --rule '.*\.1\.mlp\.down_proj:bits=2' --report odd.json 2>&1 >/dev/null |
	sed -n 's/.*: \(model.*\) lost.*try --rule \(.*\)$/\1 \2/p'
rule=$(sed -n 's/.*"rule": "\(.*\)"/\1/p' odd.json | sed 's/\\\\/\\/g')
# shellcheck disable=SC2086
gptq-quantize "$T" -q -o even $few --rule "$rule" >/dev/null
gptq-inspect even --layers --match '1.mlp.down_proj' | tail -n 1 | awk '{print $1, $4}'
