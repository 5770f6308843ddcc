// A ggml backend that shows NVIDIA GPUs where there are none, for the real llama-server.
//
// llama.cpp sees devices CUDA0, CUDA1, ... with the names and memory that the settings give them, offloads to them and
// logs what it logs for CUDA. A device's memory is memory of this process, and its arithmetic is done by ggml's CPU
// backend, so what a model answers is what it answers on the CPU.
//
// How it gets into llama-server:
// - GGML_BACKEND_PATH=<this library>, and no other variable. A release with the CPU backend built in registers that one
//   and never looks at the variable, except when it parses an option that lists devices: --device, --override-tensor,
//   --list-devices. So the command line needs `--device CUDA0[,CUDA1]`. Before that option --n-gpu-layers warns that
//   there is no usable GPU; the warning is wrong then, and a release with CUDA built in doesn't print it.
// - Linked to the program (cuda_main.cpp): as in a release with CUDA built in, devices are there by themselves.
//
// Settings are lines `key = value` in the file gpus.conf in this library's own folder, links resolved. The file is read
// again before each graph, so a running server can be made slow, or broken. A variable NEXUS_FAKE_GPU_<KEY> of the
// process wins over the file.
//   count, gpu.N.{uuid,name,compute_cap,bus_id,memory_mib}
//                         the machine's GPUs; CUDA_VISIBLE_DEVICES selects from them
//   gpu.N.occupied_mib    what others hold
//   context_mib           what the driver takes for each process on each GPU that the process sees
//   arithmetic            "cpu", or "none": nothing is written or computed, all logits are 0, and a model of any size
//                         takes no memory
//   delay_ms              added to each graph: once a token and device, where all layers are offloaded
//   fail                  "abort": the process dies while CUDA is initialised. "no-device": CUDA finds no GPU, and the
//                         model is served by the CPU. "error": the next graph is a CUDA error, which ends the process.
//                         "hang": graphs don't come back; /health goes on saying that all is well.
//
// Books are kept by the kernel: each allocation is a memfd named after the GPU. /proc/*/maps tells how much of a GPU is
// free to this process, and nvidia-smi (beside this file) which process holds how much; it ends with the process.

#include "ggml-backend-impl.h"
#include "ggml-cpu.h"
#include "ggml-impl.h"

#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

extern "C" ggml_backend_reg_t ggml_backend_init(void);

namespace {

constexpr double MIB = 1024.0 * 1024.0;

// --- settings ---

std::filesystem::path settings_file() {
    Dl_info info = {};
    dladdr(reinterpret_cast<void *>(&ggml_backend_init), &info);
    return std::filesystem::canonical(info.dli_fname).parent_path() / "gpus.conf";
}

class Settings {
  public:
    Settings() {
        static const std::filesystem::path file = settings_file();  // the working folder may change later
        std::ifstream stream(file);
        for (std::string line; std::getline(stream, line);) {
            const size_t middle = line.find(" = ");
            if (middle != std::string::npos) {
                values[line.substr(0, middle)] = line.substr(middle + 3);
            }
        }
    }

    std::string text(const std::string & key, const std::string & otherwise = "") const {
        std::string variable = "NEXUS_FAKE_GPU_" + key;
        std::transform(variable.begin(), variable.end(), variable.begin(), ::toupper);
        std::replace(variable.begin(), variable.end(), '.', '_');
        if (const char * value = std::getenv(variable.c_str())) {
            return value;
        }
        const auto found = values.find(key);
        return found == values.end() ? otherwise : found->second;
    }

    size_t number(const std::string & key) const { return std::strtoull(text(key).c_str(), nullptr, 10); }

  private:
    std::map<std::string, std::string> values;
};

// A process can't change its mind about this: weights that were not kept are gone.
bool computes() {
    static const bool yes = Settings().text("arithmetic") != "none";
    return yes;
}

// --- devices ---

struct Device {
    int number;  // as CUDA counts: the visible ones, from 0
    std::string name;
    std::string key;  // the settings' prefix: gpu.N.
    std::string uuid;
    std::string description;
    std::string compute_cap;
    std::string bus_id;
    size_t total;
    bool has_context = false;
    ggml_backend_buffer_type buffer_type = {};
    ggml_backend_device device = {};
};

Device & of(ggml_backend_dev_t device) { return *static_cast<Device *>(device->context); }

// The machine's GPUs that CUDA_VISIBLE_DEVICES lets through, in its order. As in CUDA, what comes after a name that
// stands for no GPU is not there.
std::vector<size_t> visible_gpus(const Settings & settings) {
    const size_t count = settings.number("count");
    std::vector<size_t> gpus;
    const char * wanted = std::getenv("CUDA_VISIBLE_DEVICES");
    if (!wanted) {
        for (size_t gpu = 0; gpu < count; gpu++) {
            gpus.push_back(gpu);
        }
        return gpus;
    }
    std::istringstream words(wanted);
    for (std::string word; std::getline(words, word, ',');) {
        size_t gpu = count;
        if (word.rfind("GPU-", 0) == 0) {  // the beginning of a UUID is enough
            for (gpu = 0; gpu < count; gpu++) {
                if (settings.text("gpu." + std::to_string(gpu) + ".uuid").rfind(word, 0) == 0) {
                    break;
                }
            }
        } else if (!word.empty() && word.find_first_not_of("0123456789") == std::string::npos) {
            gpu = std::stoul(word);
        }
        if (gpu >= count) {
            break;
        }
        gpus.push_back(gpu);
    }
    return gpus;
}

// --- memory ---

// Bytes that the processes which this one may look at hold on a GPU.
size_t allocated(const std::string & uuid) {
    const std::string name = "/memfd:" + uuid + " ";
    size_t sum = 0;
    std::error_code gone;  // processes come and go while we look
    std::filesystem::directory_iterator processes("/proc", gone);
    for (; !gone && processes != std::filesystem::directory_iterator(); processes.increment(gone)) {
        if (!std::isdigit(static_cast<unsigned char>(processes->path().filename().c_str()[0]))) {
            continue;
        }
        std::ifstream maps(processes->path() / "maps");
        for (std::string line; std::getline(maps, line);) {
            if (line.find(name) != std::string::npos) {
                char * end = nullptr;
                const size_t first = std::strtoull(line.c_str(), &end, 16);
                sum += std::strtoull(end + 1, nullptr, 16) - first;
            }
        }
    }
    return sum;
}

void * allocate(const std::string & uuid, size_t size) {
    const int file = memfd_create(uuid.c_str(), MFD_CLOEXEC);
    if (file < 0) {
        return nullptr;
    }
    void * address = MAP_FAILED;
    if (ftruncate(file, static_cast<off_t>(size)) == 0) {  // pages come when they are written
        address = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file, 0);
    }
    close(file);
    return address == MAP_FAILED ? nullptr : address;
}

size_t free_memory(Device & gpu) {
    const Settings settings;
    if (!gpu.has_context) {  // as in CUDA, asking for the free memory makes the process's context
        gpu.has_context = true;
        const size_t size = settings.number("context_mib") << 20;
        if (size > 0 && !allocate(gpu.uuid, size)) {
            GGML_ABORT("no address space for the context of %s", gpu.name.c_str());
        }
    }
    const size_t used = (settings.number(gpu.key + "occupied_mib") << 20) + allocated(gpu.uuid);
    return used < gpu.total ? gpu.total - used : 0;
}

struct Memory {
    void * address;
    size_t size;
};

Memory & of(ggml_backend_buffer_t buffer) { return *static_cast<Memory *>(buffer->context); }

void buffer_free(ggml_backend_buffer_t buffer) {
    munmap(of(buffer).address, of(buffer).size);
    delete &of(buffer);
}

void * buffer_base(ggml_backend_buffer_t buffer) { return of(buffer).address; }

void buffer_memset(ggml_backend_buffer_t, ggml_tensor * tensor, uint8_t value, size_t offset, size_t size) {
    if (computes()) {
        std::memset(static_cast<char *>(tensor->data) + offset, value, size);
    }
}

void buffer_set(ggml_backend_buffer_t, ggml_tensor * tensor, const void * data, size_t offset, size_t size) {
    if (computes()) {
        std::memcpy(static_cast<char *>(tensor->data) + offset, data, size);
    }
}

void buffer_get(ggml_backend_buffer_t, const ggml_tensor * tensor, void * data, size_t offset, size_t size) {
    if (computes()) {
        std::memcpy(data, static_cast<const char *>(tensor->data) + offset, size);
    } else {
        std::memset(data, 0, size);
    }
}

void buffer_clear(ggml_backend_buffer_t buffer, uint8_t value) {
    const Memory & memory = of(buffer);
    if (value != 0) {
        std::memset(memory.address, value, memory.size);
    } else if (madvise(memory.address, memory.size, MADV_REMOVE) != 0) {  // pages given back read as zeros
        std::memset(memory.address, 0, memory.size);
    }
}

constexpr ggml_backend_buffer_i BUFFER = {
    .free_buffer = buffer_free,
    .get_base = buffer_base,
    .memset_tensor = buffer_memset,
    .set_tensor = buffer_set,
    .get_tensor = buffer_get,
    .clear = buffer_clear,
};

const char * buffer_type_name(ggml_backend_buffer_type_t type) { return of(type->device).name.c_str(); }

ggml_backend_buffer_t buffer_type_alloc(ggml_backend_buffer_type_t type, size_t size) {
    Device & gpu = of(type->device);
    void * address = size <= free_memory(gpu) ? allocate(gpu.uuid, size) : nullptr;
    if (!address) {
        GGML_LOG_ERROR("ggml_backend_cuda_buffer_type_alloc_buffer: allocating %.2f MiB on device %d: "
                       "cudaMalloc failed: out of memory\n", size / MIB, gpu.number);
        return nullptr;
    }
    return ggml_backend_buffer_init(type, BUFFER, new Memory{address, size}, size);
}

size_t buffer_type_alignment(ggml_backend_buffer_type_t) { return 128; }

// CUDA's kernels read quantized rows in pieces of 512 values, beyond the end of a tensor's last row if need be.
size_t buffer_type_alloc_size(ggml_backend_buffer_type_t, const ggml_tensor * tensor) {
    const int64_t over = tensor->ne[0] % 512;
    const bool padded = ggml_is_quantized(tensor->type) && over != 0;
    return ggml_nbytes(tensor) + (padded ? ggml_row_size(tensor->type, 512 - over) : 0);
}

constexpr ggml_backend_buffer_type_i BUFFER_TYPE = {
    .get_name = buffer_type_name,
    .alloc_buffer = buffer_type_alloc,
    .get_alignment = buffer_type_alignment,
    .get_alloc_size = buffer_type_alloc_size,
};

// Pinned memory of the host: what the CPU has, under CUDA's name.
const char * host_buffer_type_name(ggml_backend_buffer_type_t) { return "CUDA_Host"; }

ggml_backend_buffer_t host_buffer_type_alloc(ggml_backend_buffer_type_t type, size_t size) {
    ggml_backend_buffer_t buffer = ggml_backend_buft_alloc_buffer(ggml_backend_cpu_buffer_type(), size);
    if (buffer) {
        buffer->buft = type;
    }
    return buffer;
}

// --- a stream of graphs ---

struct Stream {
    Device & gpu;
    ggml_backend_t cpu;
};

Stream & of(ggml_backend_t backend) { return *static_cast<Stream *>(backend->context); }

const char * stream_name(ggml_backend_t backend) { return of(backend).gpu.name.c_str(); }

void stream_free(ggml_backend_t backend) {
    ggml_backend_free(of(backend).cpu);
    delete &of(backend);
    delete backend;
}

void stream_synchronize(ggml_backend_t) {}

void stream_event(ggml_backend_t, ggml_backend_event_t) {}

ggml_status stream_compute(ggml_backend_t backend, ggml_cgraph * graph) {
    using std::chrono::milliseconds;
    const Stream & stream = of(backend);
    const Settings settings;
    while (Settings().text("fail") == "hang") {
        std::this_thread::sleep_for(milliseconds(50));
    }
    if (settings.text("fail") == "error") {
        GGML_LOG_ERROR("CUDA error: an illegal memory access was encountered\n");
        GGML_LOG_ERROR("  current device: %d, in function ggml_backend_cuda_synchronize\n", stream.gpu.number);
        GGML_ABORT("CUDA error");
    }
    if (const size_t delay = settings.number("delay_ms")) {
        std::this_thread::sleep_for(milliseconds(delay));
    }
    return computes() ? ggml_backend_graph_compute(stream.cpu, graph) : GGML_STATUS_SUCCESS;
}

// Nothing is left to wait for when a function returns. But a device that said so would get other buffers than CUDA gets
// where there are several: so there are events, and the device calls itself asynchronous.
constexpr ggml_backend_i STREAM = {
    .get_name = stream_name,
    .free = stream_free,
    .synchronize = stream_synchronize,
    .graph_compute = stream_compute,
    .event_record = stream_event,
    .event_wait = stream_event,
};

// --- what ggml asks a device ---

const char * device_name(ggml_backend_dev_t device) { return of(device).name.c_str(); }

const char * device_description(ggml_backend_dev_t device) { return of(device).description.c_str(); }

void device_memory(ggml_backend_dev_t device, size_t * free, size_t * total) {
    *free = free_memory(of(device));
    *total = of(device).total;
}

enum ggml_backend_dev_type device_type(ggml_backend_dev_t) { return GGML_BACKEND_DEVICE_TYPE_GPU; }

ggml_backend_buffer_type_t device_buffer_type(ggml_backend_dev_t device) { return &of(device).buffer_type; }

ggml_backend_buffer_type_t device_host_buffer_type(ggml_backend_dev_t device) {
    static const ggml_backend_buffer_type_i & cpu = ggml_backend_cpu_buffer_type()->iface;
    static ggml_backend_buffer_type type = {
        .iface = {
            .get_name = host_buffer_type_name,
            .alloc_buffer = host_buffer_type_alloc,
            .get_alignment = cpu.get_alignment,
            .get_alloc_size = cpu.get_alloc_size,
            .is_host = cpu.is_host,
        },
        .device = device,
        .context = nullptr,
    };
    return &type;
}

void device_props(ggml_backend_dev_t device, ggml_backend_dev_props * props) {
    props->name = device_name(device);
    props->description = device_description(device);
    props->type = device_type(device);
    props->device_id = of(device).bus_id.c_str();
    device_memory(device, &props->memory_free, &props->memory_total);
    props->caps = {
        .async = true, .host_buffer = true, .buffer_from_host_ptr = false, .events = true, .mmap_support = true,
    };
}

ggml_backend_t device_init(ggml_backend_dev_t device, const char *) {
    static ggml_guid guid = {'l', 'l', 'a', 'm', 'a', '-', 'n', 'e', 'x', 'u', 's', '-', 'g', 'p', 'u', 0};
    ggml_backend_t cpu = ggml_backend_cpu_init();
    ggml_backend_cpu_set_n_threads(cpu, 1);  // more would fight with llama-server's own, which spin between two graphs
    return new ggml_backend{.guid = &guid, .iface = STREAM, .device = device, .context = new Stream{of(device), cpu}};
}

bool device_supports_op(ggml_backend_dev_t, const ggml_tensor * op) {
    return ggml_backend_dev_supports_op(ggml_backend_reg_dev_get(ggml_backend_cpu_reg(), 0), op);
}

bool device_supports_buffer_type(ggml_backend_dev_t device, ggml_backend_buffer_type_t type) {
    return type == &of(device).buffer_type;
}

// Whether the work is worth a copy of weights that lie on the host: CUDA's rule is a batch of 32. The size of the
// compute buffer depends on it.
bool device_offloads_op(ggml_backend_dev_t, const ggml_tensor * op) {
    switch (op->op) {
        case GGML_OP_GET_ROWS:
            return false;
        case GGML_OP_MUL_MAT:
            return op->ne[1] >= 32;
        case GGML_OP_MUL_MAT_ID:
        case GGML_OP_ROPE:
            return op->ne[2] >= 32;
        default:
            return ggml_nrows(op) >= 32;
    }
}

ggml_backend_event_t device_event_new(ggml_backend_dev_t device) { return new ggml_backend_event{device, nullptr}; }

void device_event_free(ggml_backend_dev_t, ggml_backend_event_t event) { delete event; }

void device_event_synchronize(ggml_backend_dev_t, ggml_backend_event_t) {}

constexpr ggml_backend_device_i DEVICE = {
    .get_name = device_name,
    .get_description = device_description,
    .get_memory = device_memory,
    .get_type = device_type,
    .get_props = device_props,
    .init_backend = device_init,
    .get_buffer_type = device_buffer_type,
    .get_host_buffer_type = device_host_buffer_type,
    .supports_op = device_supports_op,
    .supports_buft = device_supports_buffer_type,
    .offload_op = device_offloads_op,
    .event_new = device_event_new,
    .event_free = device_event_free,
    .event_synchronize = device_event_synchronize,
};

// --- the registry's entry ---

using Devices = std::vector<std::unique_ptr<Device>>;

Devices find_devices(ggml_backend_reg_t registry) {
    const Settings settings;
    if (settings.text("fail") == "abort") {
        GGML_ABORT("CUDA error");
    }
    Devices devices;
    const std::vector<size_t> gpus = visible_gpus(settings);
    if (gpus.empty() || settings.text("fail") == "no-device") {
        GGML_LOG_ERROR("ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected\n");
        return devices;
    }
    size_t total = 0;
    for (const size_t index : gpus) {
        const std::string key = "gpu." + std::to_string(index) + ".";
        const int number = static_cast<int>(devices.size());
        auto gpu = std::make_unique<Device>(Device{
            .number = number,
            .name = "CUDA" + std::to_string(number),
            .key = key,
            .uuid = settings.text(key + "uuid"),
            .description = settings.text(key + "name"),
            .compute_cap = settings.text(key + "compute_cap"),
            .bus_id = settings.text(key + "bus_id"),
            .total = settings.number(key + "memory_mib") << 20,
        });
        gpu->device = {.iface = DEVICE, .reg = registry, .context = gpu.get()};
        gpu->buffer_type = {.iface = BUFFER_TYPE, .device = &gpu->device, .context = nullptr};
        total += gpu->total;
        devices.push_back(std::move(gpu));
    }
    GGML_LOG_INFO("ggml_cuda_init: found %zu CUDA devices (Total VRAM: %zu MiB):\n", devices.size(), total >> 20);
    for (const auto & gpu : devices) {
        GGML_LOG_INFO("  Device %d: %s, compute capability %s, VMM: yes, VRAM: %zu MiB\n", gpu->number,
                      gpu->description.c_str(), gpu->compute_cap.c_str(), gpu->total >> 20);
    }
    return devices;
}

Devices & devices(ggml_backend_reg_t registry) {
    static Devices found = find_devices(registry);
    return found;
}

const char * registry_name(ggml_backend_reg_t) { return "CUDA"; }

size_t registry_count(ggml_backend_reg_t registry) { return devices(registry).size(); }

ggml_backend_dev_t registry_device(ggml_backend_reg_t registry, size_t index) {
    return &devices(registry).at(index)->device;
}

}  // namespace

ggml_backend_reg_t ggml_backend_init(void) {
    static ggml_backend_reg registry = {
        .api_version = GGML_BACKEND_API_VERSION,
        .iface = {
            .get_name = registry_name,
            .get_device_count = registry_count,
            .get_device = registry_device,
        },
        .context = nullptr,
    };
    return &registry;
}
