# A checkpoint with a fault: found, said who refuses it, status 1.
. "$ROOT/tests/cli/lib"
copy_q broken
rm broken/quantize_config.json
sed 's/"bits": 4/"bits": 8/' "$Q/config.json" >broken/config.json
gptq-inspect broken --doctor
echo "status $?"
gptq-inspect broken --doctor -P 2>/dev/null
echo "status $?"
gptq-inspect broken --doctor --json >d.json
echo "status $?"
json_ok d.json
sed -n '/"problems"/,$p' d.json | grep -c '"severity"'
gptq-inspect broken | grep -A 3 problems
