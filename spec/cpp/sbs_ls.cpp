// SPDX-License-Identifier: Apache-2.0
//
// sbs_ls: list the tensors of an .sbs file as JSON, as `blobstore ls --json` does ("codec": 1 is a packed one), and
// write the bytes of one. The tests of blobstore.hpp use it.

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "blobstore.hpp"

namespace {

using blobstore::Bytes;
using blobstore::Fault;
using blobstore::Store;
using blobstore::Tensor;
using blobstore::TensorReader;

constexpr int kOk = 0, kFault = 1, kUsage = 2;
constexpr char kUsageText[] =
    "usage: sbs_ls FILE                list the tensors, as JSON\n"
    "       sbs_ls FILE NAME           look one up by its name\n"
    "       sbs_ls --bytes FILE NAME [BASE]\n"
    "                                  write the tensor's bytes, unpacked: of packed ones in builds with\n"
    "                                  BLOBSTORE_ZSTD only; BASE: the file that a packed difference was made to,\n"
    "                                  not packed itself; or those of a file that it carries: config.json\n"
    "       sbs_ls --key-for NAME...   print the key of each name, a line each\n"
    "       sbs_ls --batch [--copy]    read paths from standard input, print a line of JSON for each;\n"
    "                                  --copy: from blocks of memory instead of maps, for a sanitizer to watch\n";

// -------------------------------------------------------------------------------------------------------------- JSON

// A byte that isn't UTF-8 becomes \udcXX, as in Python's "surrogateescape".
std::string json_string(std::string_view text) {
  char escape[8];
  std::string json = "\"";
  while (!text.empty()) {
    const blobstore::detail::Character first = blobstore::detail::first_character(text);
    const auto byte = static_cast<unsigned char>(text[0]);
    if (first.nbytes == 0) {
      std::snprintf(escape, sizeof(escape), "\\udc%02x", byte);
      json += escape;
    } else if (byte == '"' || byte == '\\') {
      json += {'\\', text[0]};
    } else if (byte < 0x20) {
      std::snprintf(escape, sizeof(escape), "\\u%04x", byte);
      json += escape;
    } else {
      json += text.substr(0, first.nbytes);
    }
    text.remove_prefix(first.nbytes == 0 ? 1 : first.nbytes);
  }
  return json + "\"";
}

// Seventeen digits: the value is a float, but JSON readers parse it as a double.
std::string json_number(float value) {
  char text[40];
  std::snprintf(text, sizeof(text), "%.17g", static_cast<double>(value));
  return std::strpbrk(text, ".e") ? text : std::string(text) + ".0";
}

std::string json_shape(const Tensor& tensor) {
  std::string json = "[";
  for (std::uint32_t axis = 0; axis < tensor.ndim; ++axis) {
    json += (axis == 0 ? "" : ", ") + std::to_string(tensor.dims[axis]);
  }
  return json + "]";
}

std::string json_tensor(const Tensor& tensor) {
  const bool known = blobstore::element_type(tensor.type) != nullptr;
  const std::string type = known ? tensor.type_name() : "type-" + std::to_string(tensor.type);
  // If packed: the stream in its blob.
  const std::uint64_t nbytes = tensor.is_packed() ? tensor.stream.size : tensor.nbytes;
  const std::uint64_t offset = tensor.is_packed() ? tensor.offset - tensor.unpacked_offset : tensor.offset;
  return "{\"name\": " + json_string(tensor.name) + ", \"key\": " + json_string(tensor.key) + ", \"type\": \"" + type +
         "\", \"shape\": " + json_shape(tensor) + ", \"scale\": " + json_number(tensor.scale) +
         ", \"nbytes\": " + std::to_string(nbytes) + ", \"offset\": " + std::to_string(offset) +
         ", \"codec\": " + std::to_string(tensor.codec) + "}";
}

std::string json_tensors(const Store& store, const char* separator) {
  std::string json = "[";
  for (std::uint32_t i = 0; i < store.tensor_count(); ++i) json += (i ? separator : "") + json_tensor(store.tensor(i));
  return json + "]";
}

std::string json_metadata(const Store& store) {
  std::string json = "{";
  store.for_each_metadata([&json](const std::string& key, const std::string& value) {
    json += (json.size() > 1 ? ", " : "") + json_string(key) + ": " + json_string(value);
  });
  return json + "}";
}

// ---------------------------------------------------------------------------------------------------------- commands

int print(const std::string& text) {
  const std::string line = text + "\n";
  return std::fwrite(line.data(), 1, line.size(), stdout) == line.size() && std::fflush(stdout) == 0 ? kOk : kFault;
}

int report(const Fault& fault) {
  std::fprintf(stderr, "%s\n", fault.text().c_str());
  // What the caller can fix, as in `blobstore`.
  constexpr std::string_view usage[] = {"os-error", "not-a-file", "needs-base", "wrong-base"};
  return std::find(std::begin(usage), std::end(usage), fault.reason) != std::end(usage) ? kUsage : kFault;
}

int report_no_tensor() {
  std::fprintf(stderr, "name-not-found: no tensor has this name\n");
  return kUsage;
}

int list_or_find(const std::string& path, const char* name) {
  Fault fault;
  const std::optional<Store> store = Store::open(path, fault);
  if (!store) return report(fault);
  if (!name) return print(json_tensors(*store, ",\n "));
  const std::optional<Tensor> tensor = store->find(name);
  return tensor ? print(json_tensor(*tensor)) : report_no_tensor();
}

// Sets the base of a packed difference: the bytes under the same key in the base file.
#if defined(BLOBSTORE_ZSTD)
bool take_base(TensorReader& reader, const Store& base, std::string_view key, Fault& fault) {
  if (!reader.packed() || !reader.packed()->base_sha256()) return true;
  const std::optional<blobstore::Blob> blob = base.find_blob(key);
  return reader.packed()->take_base(blob ? Bytes{blob->data, blob->nbytes} : Bytes{}, fault);
}
#else
bool take_base(TensorReader&, const Store&, std::string_view, Fault&) { return true; }
#endif

// Piece by piece, so that a tensor size stated by a file is never allocated.
bool write_bytes(TensorReader& reader, Fault& fault) {
  std::vector<std::uint8_t> piece(std::size_t{1} << 20);
  for (std::uint64_t at = 0; at < reader.nbytes(); at += piece.size()) {
    const std::uint64_t nbytes = std::min(reader.nbytes() - at, std::uint64_t{piece.size()});
    if (!reader.read(at, nbytes, piece.data(), fault)) return false;
    std::fwrite(piece.data(), 1, static_cast<std::size_t>(nbytes), stdout);
  }
  return true;
}

int print_bytes(const std::string& path, const char* name, const char* base_path) {
  Fault fault;
  const std::optional<Store> store = Store::open(path, fault);
  if (!store) return report(fault);
  const std::optional<Tensor> tensor = store->find(name);
  const std::optional<blobstore::Blob> file = tensor ? std::nullopt : store->find_file(name);
  if (file) {
    const bool written = std::fwrite(file->data, 1, static_cast<std::size_t>(file->nbytes), stdout) == file->nbytes;
    return written && std::fflush(stdout) == 0 ? kOk : kFault;
  }
  if (!tensor) return report_no_tensor();
  const std::optional<Store> base = base_path ? Store::open(base_path, fault) : std::nullopt;
  if (base_path && !base) return report(fault);
  std::optional<TensorReader> reader = TensorReader::open(*tensor, fault);
  if (!reader || (base && !take_base(*reader, *base, tensor->key, fault))) return report(fault);
  if (!write_bytes(*reader, fault)) return report(fault);
  return std::fflush(stdout) == 0 && !std::ferror(stdout) ? kOk : kFault;
}

int print_keys(int count, char** names) {
  std::string lines;
  for (int i = 0; i < count; ++i) {
    const auto key = blobstore::key_for(names[i]);
    if (!key) {
      std::fprintf(stderr, "bad-name: expected 1 to 4096 bytes of UTF-8\n");
      return kUsage;
    }
    if (i) lines += '\n';
    lines += key->text();
  }
  return print(lines);
}

// A file's bytes in a block of exactly their size, so that a sanitizer detects reads beyond them.
struct Copy {
  std::unique_ptr<std::uint8_t[]> data;
  std::uint64_t size = 0;

  Bytes bytes() const { return {data.get(), size}; }

  static std::optional<Copy> of(const std::string& path) {
    std::ifstream file(path, std::ios::binary | std::ios::ate);
    if (!file) return std::nullopt;
    Copy copy;
    copy.size = static_cast<std::uint64_t>(file.tellg());
    copy.data.reset(new std::uint8_t[copy.size]);
    file.seekg(0).read(reinterpret_cast<char*>(copy.data.get()), static_cast<std::streamsize>(copy.size));
    return file ? std::optional<Copy>(std::move(copy)) : std::nullopt;
  }
};

bool same(const Tensor& a, const Tensor& b) { return json_tensor(a) == json_tensor(b) && a.data == b.data; }

// Counts the listed names that are found.
std::uint32_t count_found(const Store& store) {
  std::uint32_t found = 0;
  for (std::uint32_t i = 0; i < store.tensor_count(); ++i) {
    const std::optional<Tensor> tensor = store.find(store.tensor(i).name);
    if (tensor && same(*tensor, store.tensor(i))) ++found;
  }
  return found;
}

std::string describe(const std::string& path, const std::optional<Store>& store, const Fault& fault) {
  const std::string begin = "{\"path\": " + json_string(path);
  if (!store) {
    return begin + ", \"error\": \"" + fault.reason + "\", \"message\": " + json_string(fault.message) +
           ", \"offset\": " + std::to_string(fault.offset) + "}";
  }
  return begin + ", \"tensors\": " + json_tensors(*store, ", ") + ", \"metadata\": " + json_metadata(*store) +
         ", \"found\": " + std::to_string(count_found(*store)) + "}";
}

std::string describe_set_copy(const std::string& path, Bytes index) {
  Fault fault;
  const auto names = Store::set_files(index, fault);
  if (!names) return describe(path, std::nullopt, fault);
  std::vector<Copy> copies;
  std::vector<Bytes> files;
  for (const std::string& name : *names) {
    std::optional<Copy> copy = Copy::of(path.substr(0, path.rfind('/') + 1) + name);
    if (!copy) break;
    copies.push_back(std::move(*copy));
    files.push_back(copies.back().bytes());
  }
  return describe(path, Store::set_from_memory(index, files, fault), fault);
}

std::string describe_copy(const std::string& path) {
  const std::optional<Copy> file = Copy::of(path);
  const std::optional<Copy> beside = Copy::of(path + ".idx");
  Fault fault;
  if (!file) {
    fault.reason = "os-error";
    return describe(path, std::nullopt, fault);
  }
  if (blobstore::detail::is_set_index(file->bytes())) return describe_set_copy(path, file->bytes());
  const auto index = beside ? std::optional<Bytes>(beside->bytes()) : std::nullopt;
  return describe(path, Store::from_memory(file->bytes(), index, fault), fault);
}

std::string describe_map(const std::string& path) {
  Fault fault;
  const std::optional<Store> store = Store::open(path, fault);
  return describe(path, store, fault);
}

int batch(bool copy) {
  for (std::string path; std::getline(std::cin, path);) {
    if (print(copy ? describe_copy(path) : describe_map(path)) != kOk) return kFault;
  }
  return kOk;
}

}  // namespace

int main(int count, char** arguments) {
  const std::string_view first = count > 1 ? arguments[1] : "";
  if (first == "--key-for" && count > 2) return print_keys(count - 2, arguments + 2);
  if (first == "--bytes" && (count == 4 || count == 5)) {
    return print_bytes(arguments[2], arguments[3], count == 5 ? arguments[4] : nullptr);
  }
  if (first == "--batch" && count == 2) return batch(false);
  if (first == "--batch" && count == 3 && std::strcmp(arguments[2], "--copy") == 0) return batch(true);
  if ((count == 2 || count == 3) && first.substr(0, 2) != "--") {
    return list_or_find(arguments[1], count == 3 ? arguments[2] : nullptr);
  }
  std::fputs(kUsageText, stderr);
  return kUsage;
}
