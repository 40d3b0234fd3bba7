// SPDX-License-Identifier: Apache-2.0
//
// write: make an .sbs file of version 2 from files, as ../sbs.md says: write OUT NAME FILE [NAME FILE]... Each file
// becomes a blob under the key of its name. There is no index, so readers list bytes, and find them by these keys.

#include <cstdio>
#include <fstream>
#include <iterator>
#include <set>
#include <string>
#include <vector>

#include "blobstore.hpp"

static std::string little_endian(std::uint64_t number, int nbytes) {
  std::string bytes;
  for (int i = 0; i < nbytes; ++i) bytes += static_cast<char>(number >> (8 * i) & 255);
  return bytes;
}

int main(int count, char** arguments) {
  if (count < 4 || count % 2 != 0) return std::fprintf(stderr, "usage: write OUT NAME FILE...\n"), 2;
  std::ofstream out(arguments[1], std::ios::binary);
  std::uint64_t size = 0;
  const auto put = [&](const std::string& bytes, std::uint64_t multiple) {  // then zeros up to a multiple
    const std::uint64_t end = (size + bytes.size() + multiple - 1) / multiple * multiple;
    out << bytes << std::string(end - size - bytes.size(), '\0');
    size = end;
  };
  const std::string magic = "SBS\n";
  put(magic + little_endian(0, 4) + little_endian(65536, 8), 256);  // the placeholder
  std::string keys, ranges;
  std::set<std::string> names;
  for (int i = 2; i < count; i += 2) {
    const auto key = blobstore::key_for(arguments[i]);
    std::ifstream file(arguments[i + 1], std::ios::binary);
    const std::string data{std::istreambuf_iterator<char>(file), {}};
    const std::string padded = key ? std::string(key->bytes.begin(), key->bytes.end()) : "";
    if (!key || data.empty() || !names.insert(padded).second) {
      return std::fprintf(stderr, "%s: not a name, used twice, or its file has no bytes\n", arguments[i]), 1;
    }
    keys += padded;
    ranges += little_endian(size, 8) + little_endian(data.size(), 8);
    put(data, 256);
  }
  const std::string directory = keys + ranges;
  const std::uint64_t tail = (directory.size() + 16 + 255) / 256 * 256, end = (size + tail + 65535) / 65536 * 65536;
  out << std::string(end - size - directory.size() - 16, '\0') << directory;
  out << magic << little_endian(names.size(), 4) << little_endian(end, 8) << std::flush;
  return out ? 0 : (std::fprintf(stderr, "%s: can't be written\n", arguments[1]), 1);
}
