// A program of a release that has CUDA built in: what llama.cpp's own main() does, after the backend is registered.
// ENTRY is the function that llama.cpp keeps the program in, as in llama_server.

#include "ggml-backend-impl.h"

extern "C" ggml_backend_reg_t ggml_backend_init(void);
int ENTRY(int argc, char ** argv);

int main(int argc, char ** argv) {
    ggml_backend_register(ggml_backend_init());
    return ENTRY(argc, argv);
}
