# Which kernels run it here depends on the machine; that one is chosen for each
# kind of linear, and that the plain one always could, does not.
. "$ROOT/tests/cli/lib"
gptq-inspect "$Q" --kernels --device cpu >k
grep linear k
grep -c '^  cpu [a-z0-9]* *chosen' k
grep -cE '^  cpu generic +(chosen|could)' k
# a faster one that is not chosen has its reason
awk '/linear/ {chosen = 0} / chosen / {chosen = 1}
	/ cannot / && NF < 4 {print "no reason:", $0}
	/ could / && !chosen && !/not asked for/ {print "faster, not chosen:", $0}' k
gptq-inspect "$Q" --kernels --device ref | grep -E '^  ref'
gptq-inspect "$Q" --kernels --json --match '0\.mlp\.up' >j.json
json_ok j.json
grep -c '"layers": \[$' j.json
# the config, whichever home it has
gptq-inspect "$Q" --config
copy_q moved
sed -e 's/"bits"/"wbits"/' -e 's/"group_size"/"groupsize"/' \
	"$Q/quantize_config.json" >moved/quantize_config.json
cp "$T/config.json" moved/config.json
gptq-inspect "$Q" --config >a
gptq-inspect moved --config | cmp - a
gptq-inspect "$T" --config
# only what --match lets through
gptq-inspect "$Q" --kernels --match '\.2\.mlp' | grep linear
