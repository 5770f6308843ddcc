/* The driver's library of a machine with two GPUs that are not there, declared as in nvml.h, for the real bindings. The
   second GPU, like some passive cards, reports no power and no temperature.

   -DLOST                      the first has fallen off the bus
   -DINIT=DRIVER_NOT_LOADED    the driver is not there */
#include <stdio.h>

typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned int gpu, memory; } utilization_t;
enum { SUCCESS = 0, NOT_SUPPORTED = 3, GPU_IS_LOST = 15, DRIVER_NOT_LOADED = 9 };
#ifndef INIT
#define INIT SUCCESS
#endif
static int gpus[2] = {0, 1};
int nvmlInitWithFlags(unsigned int flags) { return INIT; }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { return code == DRIVER_NOT_LOADED ? "Driver Not Loaded" : "error"; }
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = 2; return SUCCESS; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **device) {
#ifdef LOST
    if (index == 0) return GPU_IS_LOST;
#endif
    *device = &gpus[index];
    return SUCCESS;
}
int nvmlSystemGetDriverVersion(char *version, unsigned int size) { snprintf(version, size, "580.65.06"); return 0; }
int nvmlDeviceGetName(void *device, char *name, unsigned int size) {
    snprintf(name, size, "Test GPU %d", *(int *)device);
    return SUCCESS;
}
int nvmlDeviceGetMemoryInfo(void *device, memory_t *memory) {
    memory->total = 24576ull << 20;
    memory->used = (1000ull + *(int *)device) << 20;
    memory->free = memory->total - memory->used;
    return SUCCESS;
}
int nvmlDeviceGetUtilizationRates(void *device, utilization_t *rates) {
    rates->gpu = 97; rates->memory = 50;
    return SUCCESS;
}
int nvmlDeviceGetPowerUsage(void *device, unsigned int *milliwatts) {
    if (*(int *)device == 1) return NOT_SUPPORTED;
    *milliwatts = 311500;
    return SUCCESS;
}
int nvmlDeviceGetTemperature(void *device, int sensor, unsigned int *celsius) {
    if (*(int *)device == 1) return NOT_SUPPORTED;
    *celsius = 64;
    return SUCCESS;
}
