// SPDX-License-Identifier: Apache-2.0
//
// touch CASE FILE: opens an .sbs file with blobstore.hpp, for CASE "lookup" finds the tensors whose names stand in
// standard input (each after its size and a newline), for "map" touches one byte of each of their pages, too. Prints
// what that took as JSON. See cpp.py.

#include <sys/resource.h>

#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include "blobstore.hpp"

namespace {

// Of the process, in bytes; by the kernel's names. 0 where there is no /proc.
long long memory(const std::string& name) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (line.compare(0, name.size() + 1, name + ":") == 0) return std::stoll(line.substr(name.size() + 1)) * 1024;
  }
  return 0;
}

rusage usage() {
  rusage used{};
  getrusage(RUSAGE_SELF, &used);
  return used;
}

unsigned touch(const blobstore::Tensor& tensor) {
  const auto page = static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  const blobstore::Bytes stored = tensor.stored();
  unsigned sum = 0;
  for (std::uint64_t at = 0; at < stored.size; at += page) sum += stored.data[at];
  return stored.size ? sum + stored.data[stored.size - 1] : sum;
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) return 2;
  const std::string what = arguments[1];
  std::vector<std::string> names;
  for (std::string size; std::getline(std::cin, size);) {
    names.emplace_back(std::stoul(size), '\0');
    std::cin.read(&names.back()[0], static_cast<std::streamsize>(names.back().size()));
  }
  const long long resident = memory("VmRSS"), own = memory("RssAnon");
  const rusage before = usage();
  const auto start = std::chrono::steady_clock::now();
  blobstore::Fault fault;
  const auto store = blobstore::Store::open(arguments[2], fault);
  unsigned sum = 0;
  bool found = true;
  if (store && what != "open") {
    for (const std::string& name : names) {
      const auto tensor = store->find(name);
      found = found && tensor.has_value();
      if (tensor) sum += what == "map" ? touch(*tensor) : tensor->type;
    }
  }
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  const rusage after = usage();
  if (!store || !found) {
    std::fprintf(stderr, "%s\n", store ? "a name was not found" : fault.text().c_str());
    return 1;
  }
  volatile unsigned used = sum;  // so that the compiler doesn't leave the touching out
  static_cast<void>(used);
  std::printf("{\"seconds\": %.9f, \"peak_nbytes\": %lld, \"own_nbytes\": %lld, ", took.count(),
              memory("VmHWM") - resident, memory("RssAnon") - own);
  std::printf("\"minor_faults\": %ld, \"major_faults\": %ld}\n", after.ru_minflt - before.ru_minflt,
              after.ru_majflt - before.ru_majflt);
}
