gptq --list
# one path: the first argument, or the name it was called by
gptq inspect --version
gptq-inspect --version
ln -s "$GPTQ_BIN/gptq" gptq-verify
./gptq-verify --version
