// SPDX-License-Identifier: Apache-2.0
//
// blobstore.hpp: read gemma.cpp's .sbs files, by key and by tensor name.
//
// ../sbs.md specifies the container, ../index.md the name index; S1 to S13 and I1 to I24 below are their reader checks.
// ../gemma.md says how a file without an index is read. All checks are made when a file is opened, so looking up a
// tensor checks nothing: it is a binary search, without an allocation. A set of files is opened by the path of its index.
//
//     blobstore::Store store = blobstore::Store::open("model.sbs");               // throws blobstore::Error
//     std::optional<blobstore::Tensor> tensor = store.find("model.norm.weight");  // tensor->data, ->dims, ->type, …
//     for (const blobstore::Tensor& one : store.tensors()) …
//
// C++17, POSIX. Without exceptions: Store::open(path, fault). Without mmap: define BLOBSTORE_NO_MMAP and pass bytes
// that you have mapped or read yourself to Store::from_memory. To read packed tensors: define BLOBSTORE_ZSTD and link
// libzstd; TensorReader then reads all tensors. P1 to P14 are the checks of ../packed.md.
//
// Any number in a file may be hostile. Three rules deal with that, and changes must keep them:
//   - integers are assembled byte by byte, which is correct on any host and at any address;
//   - a count or size is compared with what is left (n <= size - at) before anything is added to or multiplied by it;
//   - a failed check returns refuse(…), which is false, so checks are chained with && and the first fault is kept.

#ifndef BLOBSTORE_HPP_
#define BLOBSTORE_HPP_

#define BLOBSTORE_VERSION "0.1.0"  // of the package that this header is part of

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#if !defined(BLOBSTORE_NO_MMAP)
#if !defined(__unix__) && !defined(__APPLE__)
#error "blobstore.hpp maps files as POSIX does: define BLOBSTORE_NO_MMAP and use Store::from_memory on other systems"
#endif
#include <cerrno>
#include <cstdlib>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>
#endif

#if defined(BLOBSTORE_ZSTD)
#include <memory>
#include <zstd.h>
#endif

namespace blobstore {

using std::uint16_t;
using std::uint32_t;
using std::uint64_t;
using std::uint8_t;

// ------------------------------------------------------------------------------------------------------------ limits

constexpr uint32_t kMagic = 0x0A534253;  // "SBS\n"
constexpr uint64_t kHeaderNbytes = 16;
constexpr uint64_t kRecordNbytes = 32;  // a key and a range per blob
constexpr uint64_t kBlobAlign = 256;
constexpr uint64_t kFileAlign = 65536;
constexpr uint32_t kMaxBlobs = 1048576;
constexpr std::size_t kKeyNbytes = 16;
constexpr std::size_t kMaxNameNbytes = 4096;
constexpr std::size_t kMaxDims = 32;
constexpr uint64_t kMaxElements = (uint64_t{1} << 57) - 1;  // times 64 bits, this is below 2^63
constexpr uint32_t kMaxTextWords = 64;  // of a text field in the runtime's blobs

// ------------------------------------------------------------------------------------------------------------- bytes

namespace detail {

inline float float_of(uint32_t bits) {
  static_assert(sizeof(float) == sizeof(uint32_t), "floats are IEEE 754 single precision");
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

}  // namespace detail

// A run of bytes, not owned. Its size is below 2^63, like that of anything in memory, so adding a few small numbers to
// it can't wrap.
struct Bytes {
  const uint8_t* data = nullptr;
  uint64_t size = 0;

  Bytes slice(uint64_t offset, uint64_t nbytes) const { return {data + offset, nbytes}; }

  std::string_view text() const {
    return {reinterpret_cast<const char*>(data), static_cast<std::size_t>(size)};
  }

  // Little-endian, byte by byte. `bytes` spells it out rather than looping: compilers turn this into one load.
  template <class Unsigned>
  Unsigned load(uint64_t offset) const {
    return static_cast<Unsigned>(bytes(data + offset, std::make_index_sequence<sizeof(Unsigned)>()));
  }

  float load_f32(uint64_t offset) const { return detail::float_of(load<uint32_t>(offset)); }

  // Tests the bits: std::isfinite is always true under -ffast-math, which runtimes like to use.
  bool is_finite_f32(uint64_t offset) const { return (load<uint32_t>(offset) & 0x7F800000) != 0x7F800000; }

  bool all_zero(uint64_t offset, uint64_t nbytes) const {
    return std::all_of(data + offset, data + offset + nbytes, [](uint8_t byte) { return byte == 0; });
  }

 private:
  template <std::size_t... I>
  static uint64_t bytes(const uint8_t* at, std::index_sequence<I...>) {
    return ((uint64_t{at[I]} << (8 * I)) | ...);
  }
};

// ------------------------------------------------------------------------------------------------------------ faults

// Why a file was refused.
struct Fault {
  const char* reason = "";  // a code of the specification, or "os-error" or "not-a-file" if it can't be opened at all
  uint64_t offset = 0;      // in the faulty file
  std::string message;
  std::string path;  // of the faulty file, which may be the external index

  std::string text() const {
    return std::string(reason) + ": " + message + (path.empty() ? "" : " [" + path + "]");
  }
};

// A fault as an exception.
class Error : public std::runtime_error {
 public:
  explicit Error(const Fault& fault)
      : std::runtime_error(fault.text()), reason_(fault.reason), offset_(fault.offset) {}

  const char* reason() const noexcept { return reason_; }
  uint64_t offset() const noexcept { return offset_; }

 private:
  const char* reason_;
  uint64_t offset_;
};

namespace detail {

inline void append(std::string& text, std::string_view part) { text += part; }
inline void append(std::string& text, uint64_t number) { text += std::to_string(number); }

// Sets the fault and returns false, so that a check can end with `return refuse(…)`.
template <class... Parts>
bool refuse(Fault& fault, const char* reason, uint64_t offset, const Parts&... message) {
  fault.reason = reason;
  fault.offset = offset;
  fault.message.clear();
  (append(fault.message, message), ...);
  return false;
}

// Foreign bytes for a message: one short line without terminal control characters.
inline std::string quoted(std::string_view bytes) {
  constexpr char digits[] = "0123456789abcdef";
  std::string shown = "'";
  for (const char c : bytes.substr(0, 80)) {
    const auto byte = static_cast<uint8_t>(c);
    if (byte >= 0x20 && byte < 0x7F && c != '\\' && c != '\'') {
      shown += c;
    } else {
      shown += {'\\', 'x', digits[byte >> 4], digits[byte & 15]};
    }
  }
  return shown + (bytes.size() > 80 ? "…'" : "'");
}

// The multiple must be a power of two.
constexpr uint64_t round_up(uint64_t value, uint64_t multiple) { return (value + multiple - 1) & ~(multiple - 1); }

// ------------------------------------------------------------------------------------------------------------- UTF-8

struct Character {
  uint32_t code_point;
  std::size_t nbytes;  // 0: the text does not begin with a well-formed character
};

inline bool continues(std::string_view text, std::size_t at) {
  return at < text.size() && (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80;
}

// The first character of a text, by the table of well-formed sequences (Unicode, 3.9): no overlong sequences, no
// surrogates, nothing above U+10FFFF.
inline Character first_character(std::string_view text) {
  if (text.empty()) return {0, 0};
  const auto lead = static_cast<uint8_t>(text[0]);
  if (lead < 0x80) return {lead, 1};
  const std::size_t nbytes = lead < 0xC2 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : lead < 0xF5 ? 4 : 0;
  if (nbytes == 0) return {0, 0};
  uint32_t code_point = lead & (0x7Fu >> nbytes);
  for (std::size_t i = 1; i < nbytes; ++i) {
    if (!continues(text, i)) return {0, 0};
    code_point = code_point << 6 | (static_cast<uint8_t>(text[i]) & 0x3Fu);
  }
  const bool overlong = (nbytes == 3 && code_point < 0x800) || (nbytes == 4 && code_point < 0x10000);
  const bool surrogate = code_point >= 0xD800 && code_point < 0xE000;
  if (overlong || surrogate || code_point > 0x10FFFF) return {0, 0};
  return {code_point, nbytes};
}

inline bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const std::size_t nbytes = first_character(text).nbytes;
    if (nbytes == 0) return false;
    text.remove_prefix(nbytes);
  }
  return true;
}

inline void append_utf8(std::string& text, uint32_t c) {
  const auto continuation = [c](int shift) { return static_cast<char>(0x80 | ((c >> shift) & 0x3F)); };
  if (c < 0x80) {
    text += static_cast<char>(c);
  } else if (c < 0x800) {
    text += {static_cast<char>(0xC0 | (c >> 6)), continuation(0)};
  } else if (c < 0x10000) {
    text += {static_cast<char>(0xE0 | (c >> 12)), continuation(6), continuation(0)};
  } else {
    text += {static_cast<char>(0xF0 | (c >> 18)), continuation(12), continuation(6), continuation(0)};
  }
}

// ----------------------------------------------------------------------------------------------------------- SHA-256

// FIPS 180-4, a plain implementation: opening a file hashes at most the directory (32 MiB) that an external index is
// bound to.
class Sha256 {
 public:
  using Digest = std::array<uint8_t, 32>;

  static Digest of(const uint8_t* data, uint64_t size) {
    Sha256 hash;
    uint64_t at = 0;
    for (; size - at >= 64; at += 64) hash.block(data + at);
    hash.last_blocks(data + at, static_cast<std::size_t>(size - at), size);
    Digest digest;
    for (std::size_t i = 0; i < 32; ++i) digest[i] = static_cast<uint8_t>(hash.state_[i / 4] >> (24 - 8 * (i % 4)));
    return digest;
  }

 private:
  static constexpr uint32_t rotate(uint32_t x, int n) { return x >> n | x << (32 - n); }

  // The rest of the data, a 1 bit, zeros, and the length in bits: one block or two.
  void last_blocks(const uint8_t* rest, std::size_t rest_nbytes, uint64_t size) {
    std::array<uint8_t, 128> padded{};
    std::copy(rest, rest + rest_nbytes, padded.begin());
    padded[rest_nbytes] = 0x80;
    const std::size_t end = rest_nbytes < 56 ? 64 : 128;
    for (std::size_t i = 0; i < 8; ++i) padded[end - 1 - i] = static_cast<uint8_t>((size * 8) >> (8 * i));
    block(padded.data());
    if (end == 128) block(padded.data() + 64);
  }

  void block(const uint8_t* data) {
    std::array<uint32_t, 64> w;
    for (std::size_t i = 0; i < 16; ++i) {
      const uint8_t* at = data + 4 * i;
      w[i] = uint32_t{at[0]} << 24 | uint32_t{at[1]} << 16 | uint32_t{at[2]} << 8 | uint32_t{at[3]};
    }
    for (std::size_t i = 16; i < 64; ++i) {
      const uint32_t low = rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3;
      const uint32_t high = rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10;
      w[i] = w[i - 16] + low + w[i - 7] + high;
    }
    auto [a, b, c, d, e, f, g, h] = state_;
    for (std::size_t i = 0; i < 64; ++i) {
      const uint32_t choice = (e & f) ^ (~e & g);
      const uint32_t majority = (a & b) ^ (a & c) ^ (b & c);
      const uint32_t first = h + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + choice + kRound[i] + w[i];
      const uint32_t second = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + majority;
      h = g, g = f, f = e, e = d + first;
      d = c, c = b, b = a, a = first + second;
    }
    const std::array<uint32_t, 8> add{a, b, c, d, e, f, g, h};
    for (std::size_t i = 0; i < 8; ++i) state_[i] += add[i];
  }

  static constexpr std::array<uint32_t, 64> kRound{
      0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
      0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
      0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
      0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
      0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
      0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
      0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
      0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

  std::array<uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
};

}  // namespace detail

using Digest = detail::Sha256::Digest;

// The SHA-256 of bytes. Store::digest has those that the index lists, to compare with.
inline Digest sha256(Bytes bytes) { return detail::Sha256::of(bytes.data, bytes.size); }

// -------------------------------------------------------------------------------------------------------------- keys

// 1 to 16 bytes, zero-padded, as the directory stores them.
struct Key {
  std::array<uint8_t, kKeyNbytes> bytes{};

  // Empty optional if the text is not a key: empty, too long, or with a NUL.
  static std::optional<Key> from(std::string_view text) {
    if (text.empty() || text.size() > kKeyNbytes || text.find('\0') != text.npos) return std::nullopt;
    Key key;
    std::memcpy(key.bytes.data(), text.data(), text.size());
    return key;
  }

  // Without the padding; valid as long as the key.
  std::string_view text() const {
    const auto end = std::find(bytes.begin(), bytes.end(), uint8_t{0});
    return {reinterpret_cast<const char*>(bytes.data()), static_cast<std::size_t>(end - bytes.begin())};
  }
};

// 1 to 4,096 bytes of well-formed UTF-8 without NUL.
inline bool is_name(std::string_view text) {
  return !text.empty() && text.size() <= kMaxNameNbytes && text.find('\0') == text.npos && detail::is_utf8(text);
}

namespace detail {

// Whether gemma.cpp would abort on this key: it reads decimal digits right after the last '_' of any key as a layer.
inline bool has_layer_999_or_more(std::string_view name) {
  const std::size_t underscore = name.rfind('_');
  if (underscore == name.npos) return false;
  uint32_t layer = 0;
  for (std::size_t i = underscore + 1; i < name.size() && name[i] >= '0' && name[i] <= '9'; ++i) {
    layer = std::min(10 * layer + static_cast<uint32_t>(name[i] - '0'), uint32_t{999});  // capped: can't wrap
  }
  return layer >= 999;
}

inline bool is_its_own_key(std::string_view name) {
  if (name.empty() || name.size() > kKeyNbytes) return false;
  const auto is_plain = [](char c) { return c >= 0x21 && c <= 0x7E; };
  if (!std::all_of(name.begin(), name.end(), is_plain)) return false;
  if (std::string_view("~FB$2I4").find(name[0]) != std::string_view::npos) return false;
  if (name == "config" || name == "tokenizer" || name == "toc") return false;
  return !has_layer_999_or_more(name);
}

// '~' and the first 75 bits of the name's SHA-256 in base32.
inline Key hashed_key(std::string_view name) {
  constexpr char alphabet[] = "abcdefghijklmnopqrstuvwxyz234567";
  const auto digest = Sha256::of(reinterpret_cast<const uint8_t*>(name.data()), name.size());
  Key key;
  key.bytes[0] = '~';
  for (std::size_t i = 1; i < kKeyNbytes; ++i) {
    const std::size_t bit = 5 * (i - 1);
    const unsigned two_bytes = static_cast<unsigned>(digest[bit / 8] << 8 | digest[bit / 8 + 1]);
    key.bytes[i] = static_cast<uint8_t>(alphabet[two_bytes >> (11 - bit % 8) & 31]);
  }
  return key;
}

}  // namespace detail

// The key of a tensor with this name and a separate blob, the same in every file. Empty optional if it is not a name.
inline std::optional<Key> key_for(std::string_view name) {
  if (!is_name(name)) return std::nullopt;
  return detail::is_its_own_key(name) ? Key::from(name) : detail::hashed_key(name);
}

// The key of a file that a store carries besides tensors, such as "config.json"; see "Files" in index.md. Empty optional
// for what is too long to be such a name, or not text.
inline std::optional<Key> file_key(std::string_view name) {
  constexpr std::size_t kMaxFileNameNbytes = 255;
  if (name.size() > kMaxFileNameNbytes || !is_name(name)) return std::nullopt;
  char text[kMaxFileNameNbytes + 1] = {0};
  std::memcpy(text + 1, name.data(), name.size());
  return detail::hashed_key({text, name.size() + 1});
}

// ----------------------------------------------------------------------------------------------------- element types

// Numbers of element types. A file may have others: they are those of newer versions.
enum Type : uint16_t {
  kUnknown = 0,  // bytes without a known meaning
  kF32 = 1, kBf16 = 2, kSfp = 3, kNuq = 4, kF64 = 5, kU32 = 6, kU64 = 7, kI8 = 8, kU16 = 9, kU8 = 10, kInt8 = 11,
  kQ4_0 = 12, kMxfp4 = 13,
  kF16 = 32, kI16 = 35, kI32 = 37, kI64 = 38, kBool = 39, kF8_E4M3 = 40, kF8_E5M2 = 41, kC64 = 42, kF8_E8M0 = 43,
  kF8_E4M3FNUZ = 44, kF8_E5M2FNUZ = 45, kF4 = 46, kF6_E2M3 = 47, kF6_E3M2 = 48,
};

struct ElementType {
  Type number;
  const char* name;
  uint64_t bits;          // per element, without the extra bytes of a group
  uint64_t group;         // elements that share extra bytes; 1 if there are none
  uint64_t group_nbytes;  // the extra bytes per group
  bool whole = false;     // the last group is stored in full, however few elements it has

  // count is below 2^57 and bits is at most 64, so nothing here can wrap.
  uint64_t nbytes(uint64_t count) const {
    const uint64_t groups = (count + group - 1) / group;
    return ((whole ? groups * group : count) * bits + 7) / 8 + groups * group_nbytes;
  }

  // The largest number of elements that fills exactly this many bytes; 0 if there is none.
  uint64_t elements_in(uint64_t size) const {
    const uint64_t full = group * bits / 8 + group_nbytes;  // bytes of a whole group
    const uint64_t extra = group_nbytes == 0 ? 0 : (size / full + (size % full != 0)) * group_nbytes;
    if (size > kMaxElements || extra >= size) return 0;
    const uint64_t count = (size - extra) * 8 / bits;
    return nbytes(count) == size ? count : 0;
  }
};

constexpr ElementType kElementTypes[] = {
    {kUnknown, "unknown", 8, 1, 0},
    {kF32, "f32", 32, 1, 0},
    {kBf16, "bf16", 16, 1, 0},
    {kSfp, "sfp", 8, 1, 0},
    {kNuq, "nuq", 4, 256, 16},
    {kF64, "f64", 64, 1, 0},
    {kU32, "u32", 32, 1, 0},
    {kU64, "u64", 64, 1, 0},
    {kI8, "i8", 8, 128, 4},
    {kU16, "u16", 16, 1, 0},
    {kU8, "u8", 8, 1, 0},
    {kInt8, "int8", 8, 1, 0},
    {kQ4_0, "q4_0", 4, 32, 2, true},
    {kMxfp4, "mxfp4", 4, 32, 1, true},
    {kF16, "f16", 16, 1, 0},
    {kI16, "i16", 16, 1, 0},
    {kI32, "i32", 32, 1, 0},
    {kI64, "i64", 64, 1, 0},
    {kBool, "bool", 8, 1, 0},
    {kF8_E4M3, "f8_e4m3", 8, 1, 0},
    {kF8_E5M2, "f8_e5m2", 8, 1, 0},
    {kC64, "c64", 64, 1, 0},
    {kF8_E8M0, "f8_e8m0", 8, 1, 0},
    {kF8_E4M3FNUZ, "f8_e4m3fnuz", 8, 1, 0},
    {kF8_E5M2FNUZ, "f8_e5m2fnuz", 8, 1, 0},
    {kF4, "f4", 4, 1, 0},
    {kF6_E2M3, "f6_e2m3", 6, 1, 0},
    {kF6_E3M2, "f6_e3m2", 6, 1, 0},
};

constexpr uint16_t kPackedCodec = 1;  // of tensors in a packed blob; 0 for all others

// Null for a number that this header doesn't know: the stored bytes are good, but their meaning is unknown.
inline const ElementType* element_type(uint16_t number) {
  for (const ElementType& one : kElementTypes) {
    if (one.number == number) return &one;
  }
  return nullptr;
}

// ------------------------------------------------------------------------------------------------------------ values

// One stored element as a float, exactly, NaNs with their bits; not yet multiplied by the tensor's scale. Elements may be
// unaligned: tensor.stored().load<uint16_t>(2 * i).
inline float bf16_to_float(uint16_t bits) { return detail::float_of(uint32_t{bits} << 16); }

inline float f16_to_float(uint16_t bits) {
  const uint32_t sign = uint32_t{bits & 0x8000u} << 16, exponent = bits >> 10 & 31u, mantissa = bits & 0x3FFu;
  if (exponent == 0) {  // zero, or a multiple of 2^-24
    const float magnitude = static_cast<float>(mantissa) * (1.0f / 16777216);
    return sign != 0 ? -magnitude : magnitude;
  }
  const uint32_t wider = exponent == 31 ? 255 : exponent + (127 - 15);
  return detail::float_of(sign | wider << 23 | mantissa << 13);
}

// Of codes that have no value: what decodes them must refuse them.
constexpr uint8_t kSfpReserved = 0x80;

// A NaN for kSfpReserved, which so can't pass for a value.
inline float sfp_to_float(uint8_t code) {
  const uint32_t sign = uint32_t{code & 0x80u} << 24, magnitude = code & 0x7Fu;
  if (magnitude == 0) return detail::float_of(sign == 0 ? 0 : 0x7FC00000);
  // Two bits of mantissa below 2^-7, and three from there on.
  const uint32_t bits = magnitude < 0x40 ? (magnitude << 21) + ((127u - 23) << 23)
                                         : ((magnitude - 0x40) << 20) + ((127u - 7) << 23);
  return detail::float_of(sign | bits);
}

// ---------------------------------------------------------------------------------------------------- blobs, tensors

struct Blob {
  std::string_view key;
  uint64_t offset = 0;  // in the file
  uint64_t nbytes = 0;
  const uint8_t* data = nullptr;
  uint32_t store = 0;  // which file of a set has it; 0 if it isn't one

  Bytes bytes() const { return {data, nbytes}; }
};

// What is known about a tensor. Views and pointers point into the file and are valid as long as the Store.
struct Tensor {
  std::string_view name;
  std::string_view key;  // of its blob; empty for a tensor without elements, which has no blob
  uint16_t type = 0;     // a Type, or a number that this header doesn't know: see element_type()
  uint16_t codec = 0;    // 0: stored as the type says; kPackedCodec: packed; don't decode any other
  uint32_t ndim = 0;
  std::array<uint64_t, kMaxDims> dims{};  // the first ndim are used; C order
  float scale = 1.0f;                     // decoded values are multiplied by it
  uint64_t offset = 0;                    // in its file; packed: as if its blob were stored there unpacked
  uint64_t nbytes = 0;                    // as the type stores it
  const uint8_t* data = nullptr;          // may be unaligned; null without a blob or with a packed one
  uint32_t store = 0;                     // which file of a set has it; 0 if it isn't one

  // If packed: the stream in its blob, the size of the unpacked blob, and the tensor's offset in it.
  Bytes stream;
  uint64_t unpacked_nbytes = 0;
  uint64_t unpacked_offset = 0;

  bool is_packed() const { return codec == kPackedCodec; }

  // What the file stores: its bytes, or the whole stream if packed.
  Bytes stored() const { return is_packed() ? stream : Bytes{data, nbytes}; }

  // "?" for a type that this header doesn't know.
  const char* type_name() const {
    const ElementType* known = element_type(type);
    return known ? known->name : "?";
  }
};

// --------------------------------------------------------------------------------------------------------- directory

namespace detail {

// 16-byte keys in an array of records: the directory's, and those of the index's blob table.
class Keys {
 public:
  Keys() = default;
  Keys(const uint8_t* first, uint64_t stride, uint32_t count) : first_(first), stride_(stride), count_(count) {}

  uint32_t count() const { return count_; }
  const uint8_t* at(uint32_t i) const { return first_ + i * stride_; }

  std::string_view text(uint32_t i) const {
    const uint8_t* end = std::find(at(i), at(i) + kKeyNbytes, uint8_t{0});
    return {reinterpret_cast<const char*>(at(i)), static_cast<std::size_t>(end - at(i))};
  }

  // Position of the first key that is empty or has something after a NUL.
  std::optional<uint32_t> first_malformed() const {
    for (uint32_t i = 0; i < count_; ++i) {
      const std::size_t nbytes = text(i).size();
      if (nbytes == 0 || !Bytes{at(i), kKeyNbytes}.all_zero(nbytes, kKeyNbytes - nbytes)) return i;
    }
    return std::nullopt;
  }

  // Positions, sorted by key.
  std::vector<uint32_t> sorted() const {
    struct Item {
      uint64_t head;  // the first eight bytes, as a number with the same order: few keys need to be looked up again
      uint32_t place;
    };
    std::vector<Item> items(count_);
    for (uint32_t i = 0; i < count_; ++i) {
      uint64_t head = 0;
      for (std::size_t byte = 0; byte < 8; ++byte) head = head << 8 | at(i)[byte];
      items[i] = {head, i};
    }
    std::sort(items.begin(), items.end(), [this](const Item& a, const Item& b) {
      return a.head != b.head ? a.head < b.head : compare(a.place, at(b.place)) < 0;
    });
    std::vector<uint32_t> order(count_);
    for (uint32_t i = 0; i < count_; ++i) order[i] = items[i].place;
    return order;
  }

  // A position whose key appears elsewhere, too.
  std::optional<uint32_t> repeated(const std::vector<uint32_t>& order) const {
    const auto equal = [this](uint32_t a, uint32_t b) { return compare(a, at(b)) == 0; };
    const auto found = std::adjacent_find(order.begin(), order.end(), equal);
    return found == order.end() ? std::nullopt : std::optional<uint32_t>(*found);
  }

  int compare(uint32_t i, const uint8_t* key) const { return std::memcmp(at(i), key, kKeyNbytes); }

 private:
  const uint8_t* first_ = nullptr;
  uint64_t stride_ = 0;
  uint32_t count_ = 0;
};

// Where each blob of a file is.
class Directory {
 public:
  bool parse(Bytes file, Fault& fault) {
    file_ = file;
    return find_header(fault) && find_directory(fault) && check_keys(fault) && check_ranges(fault) &&
           check_layout(fault);
  }

  int version() const { return version_; }
  uint32_t count() const { return count_; }
  Bytes file() const { return file_; }
  Bytes stored() const { return file_.slice(start_, kRecordNbytes * count_); }
  const Keys& keys() const { return keys_; }
  uint64_t offset(uint32_t place) const { return file_.load<uint64_t>(range(place)); }
  uint64_t nbytes(uint32_t place) const { return file_.load<uint64_t>(range(place) + 8); }

  Blob blob(uint32_t place) const {
    return {keys_.text(place), offset(place), nbytes(place), file_.data + offset(place)};
  }

  // Text that can't be a key isn't found.
  std::optional<uint32_t> find(std::string_view text) const {
    const auto key = Key::from(text);
    return key ? find(key->bytes.data()) : std::nullopt;
  }

  // By a 16-byte key, as stored.
  std::optional<uint32_t> find(const uint8_t* key) const {
    const auto less = [this](uint32_t place, const uint8_t* wanted) { return keys_.compare(place, wanted) < 0; };
    const auto found = std::lower_bound(by_key_.begin(), by_key_.end(), key, less);
    if (found == by_key_.end() || keys_.compare(*found, key) != 0) return std::nullopt;
    return *found;
  }

 private:
  uint64_t ranges() const { return start_ + kKeyNbytes * count_; }
  uint64_t range(uint32_t place) const { return ranges() + 16 * uint64_t{place}; }
  uint64_t padded_nbytes() const { return round_up(kHeaderNbytes + kRecordNbytes * count_, kBlobAlign); }

  // S1 to S4: where the true header is.
  bool find_header(Fault& fault) {
    if (file_.size < kHeaderNbytes) {
      return refuse(fault, "truncated", 0, "the file has ", file_.size, " bytes, a header alone has 16");
    }
    if (file_.load<uint32_t>(0) != kMagic) {
      return refuse(fault, "bad-magic", 0, "expected 'SBS\\n', found ", quoted(file_.slice(0, 4).text()));
    }
    version_ = file_.load<uint32_t>(4) == 0 ? 2 : 1;
    header_ = version_ == 1 ? 0 : file_.size - kHeaderNbytes;
    if (version_ == 1) return true;
    if (file_.load<uint64_t>(8) != kFileAlign) {
      return refuse(fault, "bad-placeholder", 8, "expected 65536, found ", file_.load<uint64_t>(8));
    }
    if (file_.size < kBlobAlign + kHeaderNbytes) {
      return refuse(fault, "no-directory", 0, "a file of ", file_.size, " bytes is too small for one: truncated?");
    }
    if (file_.load<uint32_t>(header_) != kMagic) {
      return refuse(fault, "no-directory", header_, "the last 16 bytes are no header: truncated download?");
    }
    return true;
  }

  // S5 to S7. Nothing has been allocated yet. After this, count is checked.
  bool find_directory(Fault& fault) {
    count_ = file_.load<uint32_t>(header_ + 4);
    if (count_ < 1 || count_ > kMaxBlobs) {
      return refuse(fault, "blob-count", header_ + 4, "expected 1 to ", uint64_t{kMaxBlobs},
                    " blobs, the header says ", uint64_t{count_});
    }
    const uint64_t stated = file_.load<uint64_t>(header_ + 8);
    if (stated != file_.size) {
      return refuse(fault, "file-size", header_ + 8, "the header says ", stated, " bytes, the file has ", file_.size,
                    stated > file_.size ? ": truncated download?" : ": something was appended");
    }
    const uint64_t room = version_ == 1 ? file_.size - kHeaderNbytes : header_ - kBlobAlign;
    const uint64_t nbytes = kRecordNbytes * count_;
    if (nbytes > room) {
      return refuse(fault, "directory-range", header_, uint64_t{count_}, " blobs need ", nbytes,
                    " bytes of directory, which don't fit");
    }
    start_ = version_ == 1 ? kHeaderNbytes : header_ - nbytes;
    keys_ = Keys(file_.data + start_, kKeyNbytes, count_);
    return true;
  }

  // S8 and S9. The order that S9 sorts is kept, for finding keys.
  bool check_keys(Fault& fault) {
    if (const auto bad = keys_.first_malformed()) {
      return refuse(fault, "bad-key", start_ + kKeyNbytes * *bad, "blob ", uint64_t{*bad},
                    ": its key is not 1 to 16 bytes, then zeros");
    }
    by_key_ = keys_.sorted();
    if (const auto twice = keys_.repeated(by_key_)) {
      return refuse(fault, "duplicate-key", start_ + kKeyNbytes * *twice, "two blobs have the key ",
                    quoted(keys_.text(*twice)));
    }
    return true;
  }

  // S10 and S11.
  bool check_ranges(Fault& fault) const {
    for (uint32_t i = 0; i < count_; ++i) {
      if (nbytes(i) == 0) return refuse_blob(fault, "empty-blob", i, "a blob has at least one byte");
    }
    for (uint32_t i = 0; i < count_; ++i) {
      if (nbytes(i) > file_.size || offset(i) > file_.size - nbytes(i)) {
        return refuse_blob(fault, "blob-range", i, "it leaves the file");
      }
    }
    return true;
  }

  // S12 and S13: blobs follow each other without gaps, and the file ends where it should. All of them are known to be
  // inside the file, so `end` can't wrap.
  bool check_layout(Fault& fault) const {
    uint64_t end = version_ == 1 ? padded_nbytes() : kBlobAlign;
    for (uint32_t i = 0; i < count_; ++i) {
      if (offset(i) != end) return refuse_blob(fault, "blob-offset", i, "it does not follow the one before");
      end = round_up(offset(i) + nbytes(i), kBlobAlign);
    }
    const uint64_t expected = round_up(version_ == 1 ? end : end + padded_nbytes(), kFileAlign);
    const bool very_old = version_ == 1 && file_.size == end;
    if (file_.size != expected && !very_old) {
      return refuse(fault, "payload-end", end, "the blobs end at ", end, ", which makes a file of ", expected,
                    " bytes, it has ", file_.size);
    }
    return true;
  }

  bool refuse_blob(Fault& fault, const char* reason, uint32_t place, const char* what) const {
    return refuse(fault, reason, range(place), "blob ", uint64_t{place}, " (", quoted(keys_.text(place)), "): offset ",
                  offset(place), ", ", nbytes(place), " bytes: ", what);
  }

  Bytes file_;
  int version_ = 0;
  uint64_t header_ = 0;  // offset of the true header
  uint64_t start_ = 0;   // offset of the directory
  uint32_t count_ = 0;
  Keys keys_;
  std::vector<uint32_t> by_key_;  // positions, sorted by key
};

// ---------------------------------------------------------------------------------------------------------- metadata

constexpr uint32_t kNoHex = 0x10000;

// The value of four hexadecimal digits, or kNoHex.
inline uint32_t hex4(std::string_view text) {
  constexpr std::string_view digits = "0123456789abcdef0123456789ABCDEF";
  if (text.size() < 4) return kNoHex;
  uint32_t value = 0;
  for (const char c : text.substr(0, 4)) {
    const std::size_t digit = digits.find(c);
    if (digit == digits.npos) return kNoHex;
    value = value << 4 | static_cast<uint32_t>(digit % 16);
  }
  return value;
}

// "\uXXXX", or two of them for a character above U+FFFF. A lone surrogate is refused.
inline bool take_unicode_escape(std::string_view& text, uint32_t& c) {
  c = hex4(text.substr(2));
  if (c == kNoHex || (c >= 0xDC00 && c < 0xE000)) return false;
  text.remove_prefix(6);
  if (c < 0xD800 || c >= 0xE000) return true;
  const uint32_t low = text.substr(0, 2) == "\\u" ? hex4(text.substr(2)) : kNoHex;
  if (low < 0xDC00 || low >= 0xE000) return false;
  text.remove_prefix(6);
  c = 0x10000 + ((c - 0xD800) << 10) + (low - 0xDC00);
  return true;
}

// Takes one character, escaped or not, from the inside of a JSON string; false if there is no valid one.
inline bool take_json_character(std::string_view& text, uint32_t& c) {
  if (text.size() >= 2 && text[0] == '\\') {
    if (text[1] == 'u') return take_unicode_escape(text, c);
    constexpr std::string_view letters = "\"\\/bfnrt", meanings = "\"\\/\b\f\n\r\t";
    const std::size_t which = letters.find(text[1]);
    if (which == letters.npos) return false;
    c = static_cast<uint8_t>(meanings[which]);
    text.remove_prefix(2);
    return true;
  }
  const Character first = first_character(text);
  c = first.code_point;
  text.remove_prefix(first.nbytes);
  return first.nbytes != 0 && c >= 0x20 && c != '"' && c != '\\';
}

// Walks through a JSON object whose values are strings. It stops at any other value, so there is no nesting.
class MetadataWalk {
 public:
  enum class Step { pair, end, malformed };

  explicit MetadataWalk(std::string_view json) : rest_(json) {}

  // Key and value as they appear between their quotes; every character is well-formed.
  Step next(std::string_view& key, std::string_view& value) {
    if (std::exchange(first_, false)) {
      if (!take('{')) return Step::malformed;
      if (take('}')) return at_end();
    } else if (take('}')) {
      return at_end();
    } else if (!take(',')) {
      return Step::malformed;
    }
    return take_string(key) && take(':') && take_string(value) ? Step::pair : Step::malformed;
  }

 private:
  void skip_space() { rest_.remove_prefix(std::min(rest_.find_first_not_of(" \t\n\r"), rest_.size())); }

  bool take(char wanted) {
    skip_space();
    if (rest_.empty() || rest_[0] != wanted) return false;
    rest_.remove_prefix(1);
    return true;
  }

  bool take_string(std::string_view& inside) {
    if (!take('"')) return false;
    const std::string_view begin = rest_;
    uint32_t c = 0;
    while (!rest_.empty() && rest_[0] != '"') {
      if (!take_json_character(rest_, c)) return false;
    }
    inside = begin.substr(0, begin.size() - rest_.size());
    return take('"');
  }

  Step at_end() {
    skip_space();
    return rest_.empty() ? Step::end : Step::malformed;
  }

  std::string_view rest_;
  bool first_ = true;
};

// Compares two well-formed strings by their meaning: "a" and "\u0061" are the same key.
inline int compare_json_strings(std::string_view a, std::string_view b) {
  uint32_t of_a = 0, of_b = 0;
  while (!a.empty() && !b.empty()) {
    take_json_character(a, of_a);
    take_json_character(b, of_b);
    if (of_a != of_b) return of_a < of_b ? -1 : 1;
  }
  return static_cast<int>(!a.empty()) - static_cast<int>(!b.empty());
}

inline std::string unescaped(std::string_view inside) {
  std::string text;
  uint32_t c = 0;
  while (!inside.empty() && take_json_character(inside, c)) append_utf8(text, c);
  return text;
}

// One object, string → string, no duplicate keys.
inline bool is_metadata(std::string_view json) {
  MetadataWalk walk(json);
  std::vector<std::string_view> keys;
  std::string_view key, value;
  MetadataWalk::Step step;
  while ((step = walk.next(key, value)) == MetadataWalk::Step::pair) keys.push_back(key);
  if (step != MetadataWalk::Step::end) return false;
  const auto less = [](std::string_view a, std::string_view b) { return compare_json_strings(a, b) < 0; };
  const auto equal = [](std::string_view a, std::string_view b) { return compare_json_strings(a, b) == 0; };
  std::sort(keys.begin(), keys.end(), less);
  return std::adjacent_find(keys.begin(), keys.end(), equal) == keys.end();
}

// -------------------------------------------------------------------------------------------------------- name index

constexpr std::string_view kIndexKey = "~index";
constexpr uint32_t kNoBlob = 0xFFFFFFFF;

// Of packed files: they say what a file was like, and each file of a set may have them.
constexpr std::string_view kSkeletonKeys[] = {"~packed", "~packed.idx"};

inline bool is_skeleton(std::string_view key) { return key == kSkeletonKeys[0] || key == kSkeletonKeys[1]; }

// An entry, gathered from its columns.
struct Entry {
  uint64_t offset, nbytes;
  uint32_t blob, shape;
  uint16_t type, codec;
  float scale;
};

// A file of a set, as its index has it.
struct SetStore {
  std::string_view name;
  uint64_t nbytes;
  Bytes sha256;  // of its directory, and of the one that its own index carries
  uint32_t first_blob, blob_count;
};

inline char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; }

// Whether this is the plain name of a file that any system can have: see "Files", in one part.
inline bool is_file_name(std::string_view name) {
  const auto is_word = [](char c) { return (c >= '0' && c <= '9') || (lower(c) >= 'a' && lower(c) <= 'z') || c == '_'; };
  const auto is_inside = [&](char c) { return is_word(c) || c == '.' || c == '-' || c == '+'; };
  if (name.empty() || name.size() > 255 || !is_word(name[0]) || name.back() == '.') return false;
  if (!std::all_of(name.begin(), name.end(), is_inside)) return false;
  std::string stem(name.substr(0, name.find('.')));
  std::transform(stem.begin(), stem.end(), stem.begin(), lower);
  if (stem == "con" || stem == "prn" || stem == "aux" || stem == "nul") return false;
  const std::string_view device = std::string_view(stem).substr(0, 3);
  return stem.size() != 4 || (device != "com" && device != "lpt") || stem[3] < '0' || stem[3] > '9';
}

enum class IndexKind { embedded, external, set };

// Whether a file is the index of a set.
inline bool is_set_index(Bytes file) {
  return file.size >= 16 && file.slice(0, 8).text() == "SBSINDEX" && (file.load<uint32_t>(12) & 4) != 0;
}

// The index's bytes, used in place. `parse` makes all checks; everything else relies on them.
class Index {
 public:
  // I1 to I20 of the index of one file. `base` is the offset of the bytes in their file, for the offsets of faults.
  bool parse(Bytes raw, uint64_t base, bool external, const Directory& directory, Fault& fault) {
    // Checks that must be made on opening come first (see "When"), so readers that defer the rest report the same.
    return open(raw, base, external ? IndexKind::external : IndexKind::embedded, fault) &&
           check_binding(directory, fault) && check_entries(fault) && check_metadata(fault) &&
           check_table_keys(directory, fault) && check_table_blobs(directory, fault) &&
           check_table_sizes(directory, fault);
  }

  // I1 to I17, I20 and I21 of the index of a set.
  bool parse_set(Bytes raw, Fault& fault) {
    return open(raw, 0, IndexKind::set, fault) && check_stores(fault) && check_entries(fault) &&
           check_metadata(fault) && check_set_keys(fault);
  }

  // The directory of one of a set's files, and the digest that the file's own index carries.
  static Sha256::Digest digest_of(const Directory& directory) {
    const Bytes records = directory.stored();
    std::vector<uint8_t> bound(records.data, records.data + records.size);
    const uint32_t count = directory.count();
    if (count != 0 && directory.keys().text(count - 1) == kIndexKey && directory.nbytes(count - 1) >= kIndexHeaderNbytes) {
      const uint8_t* own = directory.blob(count - 1).data + kSelfDigestAt;
      bound.insert(bound.end(), own, own + 32);
    }
    return Sha256::of(bound.data(), bound.size());
  }

  // I23 and I24: one of the set's files is what it was when the set was made.
  bool check_store(uint32_t i, const Directory& directory, Fault& fault) const {
    const SetStore one = store(i);
    const Sha256::Digest digest = digest_of(directory);
    if (!std::equal(digest.begin(), digest.end(), one.sha256.data)) {
      return refuse(fault, "set-stale", 0, "the set was made for another file");
    }
    bool same = directory.version() == 2 && directory.count() == one.blob_count + 1;
    for (uint32_t place = 0; same && place < one.blob_count; ++place) {
      const uint32_t row = one.first_blob + place;
      same = directory.keys().compare(place, table_keys().at(row)) == 0 && directory.nbytes(place) == table_nbytes(row);
    }
    if (same && directory.keys().text(one.blob_count) == kIndexKey) return true;
    return refuse(fault, "set-store", 0, "its blobs are not those that the set's index lists, and an index of its own");
  }

  uint32_t entry_count() const { return load<uint32_t>(24); }
  uint32_t blob_count() const { return load<uint32_t>(28); }
  uint32_t store_count() const { return load<uint32_t>(40); }
  std::string_view metadata() const { return section(kMetadata).text(); }

  Entry entry(uint32_t i) const {
    const auto at = uint64_t{i};
    return {section(kOffset).load<uint64_t>(8 * at), section(kNbytes).load<uint64_t>(8 * at),
            section(kBlob).load<uint32_t>(4 * at),   section(kShape).load<uint32_t>(4 * at),
            section(kType).load<uint16_t>(2 * at),   section(kCodec).load<uint16_t>(2 * at),
            section(kScale).load_f32(4 * at)};
  }

  std::string_view name(uint32_t i) const {
    const uint64_t start = name_start(i);
    return section(kNames).slice(start, name_end(i) - 1 - start).text();
  }

  SetStore store(uint32_t i) const {
    const Bytes at = section(kStores).slice(kStoreNbytes * i, kStoreNbytes);
    const uint32_t first = at.load<uint32_t>(40), name_start = at.load<uint32_t>(44);
    const bool last = i + 1 == store_count();
    const Bytes next = last ? at : section(kStores).slice(kStoreNbytes * (i + 1), kStoreNbytes);
    const uint64_t name_end = last ? section(kStoreNames).size : next.load<uint32_t>(44);
    const uint32_t end = last ? blob_count() : next.load<uint32_t>(40);
    return {section(kStoreNames).slice(name_start, name_end - 1 - name_start).text(), at.load<uint64_t>(0),
            at.slice(8, 32), first, end - first};
  }

  // The number of dimensions of a shape, and one of them.
  uint32_t ndim(uint32_t shape) const { return static_cast<uint32_t>(shape_end(shape) - shape_start(shape)); }
  uint64_t dim(uint32_t shape, uint32_t axis) const {
    return section(kDims).load<uint64_t>(8 * (uint64_t{shape_start(shape)} + axis));
  }

  std::optional<uint32_t> find(std::string_view name_wanted) const {
    uint32_t low = 0, high = entry_count();
    while (low < high) {
      const uint32_t middle = low + (high - low) / 2;
      const int order = name(middle).compare(name_wanted);  // as memcmp does: by unsigned bytes
      if (order == 0) return middle;
      (order < 0 ? low : high) = order < 0 ? middle + 1 : middle;
    }
    return std::nullopt;
  }

  // Of a set: the row of a key, but for those that each file may have.
  std::optional<uint32_t> find_row(std::string_view text) const {
    const auto key = Key::from(text);
    const Keys keys = table_keys();
    const auto less = [&keys](uint32_t row, const Key& wanted) { return keys.compare(row, wanted.bytes.data()) < 0; };
    if (!key) return std::nullopt;
    const auto found = std::lower_bound(by_key_.begin(), by_key_.end(), *key, less);
    if (found == by_key_.end() || keys.compare(*found, key->bytes.data()) != 0) return std::nullopt;
    return *found;
  }

  // Of a set: the store that has a row of the table, and the row's position there.
  std::pair<uint32_t, uint32_t> store_of(uint32_t row) const {
    uint32_t low = 0, high = store_count();
    while (high - low > 1) {
      const uint32_t middle = low + (high - low) / 2;
      (first_blob(middle) <= row ? low : high) = middle;
    }
    return {low, row - first_blob(low)};
  }

  // Of one file: the row of a key. It is at the key's position in the directory, unless the file was reordered.
  std::optional<uint32_t> find_row(std::string_view text, const Directory& directory) const {
    const auto key = Key::from(text);
    const auto position = directory.find(text);
    if (!key || !position) return std::nullopt;
    const Keys keys = table_keys();
    if (*position < keys.count() && keys.compare(*position, key->bytes.data()) == 0) return *position;
    for (uint32_t row = 0; row < keys.count(); ++row) {
      if (keys.compare(row, key->bytes.data()) == 0) return row;
    }
    return std::nullopt;
  }

  // The SHA-256 of the blob of a row; an empty optional without digests.
  std::optional<Digest> sha256(uint32_t row) const {
    if (!has_digests()) return std::nullopt;
    Digest digest;
    std::copy_n(section(kSha256).data + digest.size() * row, digest.size(), digest.begin());
    return digest;
  }

  // The unpacked size of a packed blob; 0 for any other.
  uint64_t unpacked_nbytes(const Entry& one) const {
    return one.blob == kNoBlob ? 0 : section(kUnpacked).load<uint64_t>(8 * uint64_t{one.blob});
  }

  // The position of a row of the table in the directory: the same, or wherever a tool that doesn't know the index has
  // moved it.
  std::optional<uint32_t> place(uint32_t row, const Directory& directory) const {
    const uint8_t* key = table_keys().at(row);
    if (row < directory.count() && directory.keys().compare(row, key) == 0) return row;
    return directory.find(key);
  }

 private:
  static constexpr uint64_t kIndexHeaderNbytes = 160, kSelfDigestAt = 104, kStoreNbytes = 48;
  static constexpr uint32_t kHasDigests = 1, kExternal = 2, kSet = 4;
  enum Section {
    kOffset, kNbytes, kNameStart, kBlob, kShape, kScale, kType, kCodec,  // of each entry
    kBlobKey, kBlobNbytes, kUnpacked, kSha256,                           // of each blob
    kShapeStart, kDims, kStores, kNames, kStoreNames, kMetadata, kSectionCount
  };

  template <class Unsigned>
  Unsigned load(uint64_t offset) const {
    return raw_.load<Unsigned>(offset);
  }

  const Bytes& section(Section which) const { return sections_[which]; }
  uint64_t position(Section which) const { return static_cast<uint64_t>(section(which).data - raw_.data); }
  uint32_t shape_count() const { return load<uint32_t>(32); }
  uint32_t dim_count() const { return load<uint32_t>(36); }
  bool has_digests() const { return (load<uint32_t>(12) & kHasDigests) != 0; }
  uint64_t table_nbytes(uint32_t row) const { return section(kBlobNbytes).load<uint64_t>(8 * uint64_t{row}); }
  Keys table_keys() const { return Keys(section(kBlobKey).data, kKeyNbytes, blob_count()); }

  uint32_t first_blob(uint32_t store) const { return section(kStores).load<uint32_t>(kStoreNbytes * store + 40); }

  uint64_t name_start(uint32_t i) const { return section(kNameStart).load<uint32_t>(4 * uint64_t{i}); }
  uint64_t name_end(uint32_t i) const { return i + 1 < entry_count() ? name_start(i + 1) : section(kNames).size; }
  uint32_t shape_start(uint32_t shape) const { return section(kShapeStart).load<uint32_t>(4 * uint64_t{shape}); }
  uint32_t shape_end(uint32_t shape) const { return shape + 1 < shape_count() ? shape_start(shape + 1) : dim_count(); }

  // Number of elements of a shape that has passed I10: the product can't wrap.
  uint64_t element_count(uint32_t shape) const {
    uint64_t count = 1;
    for (uint32_t axis = 0; axis < ndim(shape); ++axis) count *= dim(shape, axis);
    return count;
  }

  // I1 to I7.
  bool open(Bytes raw, uint64_t base, IndexKind kind, Fault& fault) {
    raw_ = raw;
    base_ = base;
    kind_ = kind;
    return check_header(fault) && check_sections(fault) && check_reserved(fault);
  }

  // I1 to I5.
  bool check_header(Fault& fault) const {
    if (raw_.size < kIndexHeaderNbytes) {
      return refuse_at(fault, "index-truncated", 0, "an index has at least 160 bytes, this has ", raw_.size);
    }
    if (raw_.slice(0, 8).text() != "SBSINDEX") {
      return refuse_at(fault, "index-magic", 0, "expected 'SBSINDEX', found ", quoted(raw_.slice(0, 8).text()));
    }
    if (load<uint32_t>(8) != 1) {
      return refuse_at(fault, "index-version", 8, "expected version 1, found ", uint64_t{load<uint32_t>(8)});
    }
    const uint32_t flags = load<uint32_t>(12);
    const uint32_t expected = kind_ == IndexKind::external ? kExternal : kind_ == IndexKind::set ? kSet : 0;
    if ((flags & ~kHasDigests) != expected) {
      const char* const where = kind_ == IndexKind::external ? "in a file of its own"
                                : kind_ == IndexKind::set    ? "of a set"
                                                             : "inside a store";
      return refuse_at(fault, "index-flags", 12, "flags ", uint64_t{flags}, " are not possible for an index ", where);
    }
    if (load<uint64_t>(16) != raw_.size) {
      return refuse_at(fault, "index-nbytes", 16, "the header says ", load<uint64_t>(16), " bytes, there are ",
                       raw_.size);
    }
    return true;
  }

  // I6. Each section begins where the previous ones end and is inside the index; this is checked before the next one.
  bool check_sections(Fault& fault) {
    struct Stated {
      uint64_t count, item_nbytes;
    };
    const uint64_t entries = entry_count(), blobs = blob_count();
    const Stated stated[kSectionCount] = {
        {entries, 8}, {entries, 8}, {entries, 4}, {entries, 4}, {entries, 4}, {entries, 4}, {entries, 2}, {entries, 2},
        {blobs, kKeyNbytes}, {blobs, 8}, {blobs, 8}, {has_digests() ? blobs : 0, 32},
        {shape_count(), 4}, {dim_count(), 8}, {store_count(), kStoreNbytes},
        {load<uint32_t>(44), 1}, {load<uint32_t>(48), 1}, {load<uint64_t>(56), 1}};
    uint64_t end = kIndexHeaderNbytes;
    for (std::size_t i = 0; i < kSectionCount; ++i) {
      const auto [count, item_nbytes] = stated[i];
      const uint64_t start = round_up(end, 8);
      if (start > raw_.size || count > (raw_.size - start) / item_nbytes) {
        return refuse_at(fault, "index-section", 16, "section ", uint64_t{i}, " of ", count, " items does not fit into ",
                         raw_.size, " bytes");
      }
      sections_[i] = raw_.slice(start, count * item_nbytes);
      end = start + sections_[i].size;
    }
    if (end != raw_.size) return refuse_at(fault, "index-section", 16, "bytes behind the metadata");
    const bool is_set = kind_ == IndexKind::set;
    if (blobs > kMaxBlobs && !is_set) return refuse_at(fault, "index-section", 28, "more blobs than a file can have");
    if (shape_count() > entries) return refuse_at(fault, "index-section", 32, "more shapes than entries");
    if ((store_count() != 0) != is_set) {
      return refuse_at(fault, "index-section", 40, "a set has stores, and nothing else has any");
    }
    if (!is_set && section(kStoreNames).size != 0) {
      return refuse_at(fault, "index-section", 48, "names of stores, but it is not the index of a set");
    }
    return true;
  }

  // I8 to I14, and I20.
  bool check_entries(Fault& fault) const {
    return check_names(fault) && check_order(fault) && check_dims(fault) && check_entry_shapes(fault) &&
           check_entry_blobs(fault) && check_entry_ranges(fault) && check_shapes(fault) && check_codecs(fault) &&
           check_scales(fault);
  }

  // I7.
  bool check_reserved(Fault& fault) const {
    if (!raw_.all_zero(52, 4)) return refuse_at(fault, "index-reserved", 52, "a reserved field is not 0");
    if (!raw_.all_zero(136, 24)) return refuse_at(fault, "index-reserved", 136, "the header's last bytes are not 0");
    if (kind_ != IndexKind::external && !raw_.all_zero(64, 40)) {
      return refuse_at(fault, "index-reserved", 64, "an index that isn't external is bound to a store");
    }
    uint64_t end = kIndexHeaderNbytes;
    for (const Bytes& one : sections_) {
      const auto start = static_cast<uint64_t>(one.data - raw_.data);
      if (!raw_.all_zero(end, start - end)) return refuse_at(fault, "index-reserved", end, "a gap is not zeros");
      end = start + one.size;
    }
    return true;
  }

  // I8. Names follow each other without gaps, so none is read twice: the section's size bounds the work.
  bool check_names(Fault& fault) const {
    const Bytes names = section(kNames);
    if (entry_count() == 0 && names.size != 0) {
      return refuse_at(fault, "index-name", position(kNames), "names, but no entries");
    }
    uint64_t end = 0;
    for (uint32_t i = 0; i < entry_count(); ++i) {
      if (name_start(i) != end || name_end(i) > names.size || name_end(i) < end + 2) {
        return refuse_entry(fault, "index-name", kNameStart, i, "its name does not follow the one before");
      }
      end = name_end(i);
      if (!is_name(name(i)) || names.data[end - 1] != 0) {
        return refuse_entry(fault, "index-name", kNameStart, i, "its name is not 1 to 4096 bytes of UTF-8 before a NUL");
      }
    }
    return true;
  }

  // I9.
  bool check_order(Fault& fault) const {
    for (uint32_t i = 1; i < entry_count(); ++i) {
      if (name(i - 1).compare(name(i)) >= 0) {
        return refuse_entry(fault, "index-order", kNameStart, i, "its name is not behind the one before");
      }
    }
    return true;
  }

  // I10 of the shapes.
  bool check_dims(Fault& fault) const {
    if ((shape_count() == 0 ? dim_count() : shape_start(0)) != 0) {
      return refuse_at(fault, "index-dims", position(kShapeStart), "the first shape does not begin at 0");
    }
    for (uint32_t shape = 0; shape < shape_count(); ++shape) {
      const uint64_t at = position(kShapeStart) + 4 * uint64_t{shape};
      if (shape_end(shape) > dim_count() || shape_end(shape) < shape_start(shape)) {
        return refuse_at(fault, "index-dims", at, "shape ", uint64_t{shape}, " does not follow the one before");
      }
      if (ndim(shape) > kMaxDims) {
        return refuse_at(fault, "index-dims", at, "shape ", uint64_t{shape}, " has more than 32 dimensions");
      }
      uint64_t product = 1;  // of the nonzero ones: a 0 must not hide an overflow of the others
      for (uint32_t axis = 0; axis < ndim(shape); ++axis) {
        const uint64_t size = std::max(dim(shape, axis), uint64_t{1});
        if (size > kMaxElements / product) {
          return refuse_at(fault, "index-dims", at, "shape ", uint64_t{shape}, " has too many elements");
        }
        product *= size;
      }
    }
    return true;
  }

  // I10 of the entries.
  bool check_entry_shapes(Fault& fault) const {
    for (uint32_t i = 0; i < entry_count(); ++i) {
      if (entry(i).shape >= shape_count()) {
        return refuse_entry(fault, "index-dims", kShape, i, "its shape is not in the table");
      }
    }
    return true;
  }

  // I11.
  bool check_entry_blobs(Fault& fault) const {
    for (uint32_t i = 0; i < entry_count(); ++i) {
      const Entry one = entry(i);
      if (one.blob == kNoBlob && element_count(one.shape) != 0) {
        return refuse_entry(fault, "index-blob", kBlob, i, "a tensor with elements has a blob");
      }
      if (one.blob != kNoBlob && one.blob >= blob_count()) {
        return refuse_entry(fault, "index-blob", kBlob, i, "its blob is not in the table");
      }
    }
    return true;
  }

  // I12.
  bool check_entry_ranges(Fault& fault) const {
    for (uint32_t i = 0; i < entry_count(); ++i) {
      const Entry one = entry(i);
      const uint64_t stored = one.blob == kNoBlob ? 0 : table_nbytes(one.blob), unpacked = unpacked_nbytes(one);
      const uint64_t room = unpacked != 0 ? unpacked : stored;
      if (one.nbytes > room || one.offset > room - one.nbytes) {
        return refuse_entry(fault, "index-range", kOffset, i, "its bytes leave the blob");
      }
    }
    return true;
  }

  // I13. An unknown type or codec can't be checked, and is not a fault.
  bool check_shapes(Fault& fault) const {
    for (uint32_t i = 0; i < entry_count(); ++i) {
      const Entry one = entry(i);
      const uint64_t count = element_count(one.shape);
      const ElementType* type = element_type(one.type);
      if (one.codec <= kPackedCodec && type && one.nbytes != type->nbytes(count)) {
        return refuse_entry(fault, "index-shape", kNbytes, i, "its bytes are not what shape and element type say");
      }
      if (count == 0 && one.blob != kNoBlob) {
        return refuse_entry(fault, "index-shape", kBlob, i, "a tensor without elements has no blob");
      }
    }
    return true;
  }

  // I20.
  bool check_codecs(Fault& fault) const {
    for (uint32_t i = 0; i < entry_count(); ++i) {
      const Entry one = entry(i);
      if ((one.codec == kPackedCodec) != (unpacked_nbytes(one) != 0)) {
        return refuse_entry(fault, "index-codec", kCodec, i, "it is packed and its blob isn't, or the reverse");
      }
    }
    return true;
  }

  // I14.
  bool check_scales(Fault& fault) const {
    for (uint32_t i = 0; i < entry_count(); ++i) {
      if (!section(kScale).is_finite_f32(4 * uint64_t{i})) {
        return refuse_entry(fault, "index-scale", kScale, i, "its scale is not finite");
      }
    }
    return true;
  }

  // I15.
  bool check_metadata(Fault& fault) const {
    if (is_metadata(metadata())) return true;
    return refuse_at(fault, "index-metadata", position(kMetadata),
                     "the metadata is not one JSON object of strings, all keys different");
  }

  // I16.
  bool check_binding(const Directory& directory, Fault& fault) const {
    if (kind_ != IndexKind::external) return true;
    if (load<uint64_t>(64) != directory.file().size) {
      return refuse_at(fault, "index-stale", 64, "this index was made for a store of ", load<uint64_t>(64),
                       " bytes, this one has ", directory.file().size);
    }
    const Sha256::Digest digest = Sha256::of(directory.stored().data, directory.stored().size);
    if (!std::equal(digest.begin(), digest.end(), raw_.data + 72)) {
      return refuse_at(fault, "index-stale", 72, "this index was made for a store with another directory");
    }
    return true;
  }

  // I17 of one file. Its table has most often the keys of the directory, which are known to be well-formed and different.
  bool check_table_keys(const Directory& directory, Fault& fault) const {
    const Keys keys = table_keys();
    bool same = keys.count() <= directory.count();
    for (uint32_t row = 0; same && row < keys.count(); ++row) same = directory.keys().compare(row, keys.at(row)) == 0;
    if (!same) return check_keys(keys.sorted(), fault);
    return check_keys({}, fault);
  }

  // I17 of a set. The order that it sorts is kept, for finding keys.
  bool check_set_keys(Fault& fault) {
    const Keys keys = table_keys();
    const auto is_of_file = [&keys](uint32_t row) { return is_skeleton(keys.text(row)); };
    by_key_ = keys.sorted();
    by_key_.erase(std::remove_if(by_key_.begin(), by_key_.end(), is_of_file), by_key_.end());
    return check_keys(by_key_, fault);
  }

  // The keys in the order of `order` must differ.
  bool check_keys(const std::vector<uint32_t>& order, Fault& fault) const {
    const Keys keys = table_keys();
    if (const auto bad = keys.first_malformed()) return refuse_row(fault, "index-key", *bad, "its key is malformed");
    if (const auto twice = keys.repeated(order)) return refuse_row(fault, "index-key", *twice, "another row has its key");
    for (uint32_t row = 0; row < keys.count(); ++row) {
      if (keys.text(row) == kIndexKey) return refuse_row(fault, "index-key", row, "it is the index itself");
    }
    return true;
  }

  // I18.
  bool check_table_blobs(const Directory& directory, Fault& fault) const {
    for (uint32_t row = 0; row < blob_count(); ++row) {
      if (!place(row, directory)) return refuse_row(fault, "index-missing-blob", row, "the file has no such blob");
    }
    return true;
  }

  // I19.
  bool check_table_sizes(const Directory& directory, Fault& fault) const {
    for (uint32_t row = 0; row < blob_count(); ++row) {
      if (directory.nbytes(*place(row, directory)) != table_nbytes(row)) {
        return refuse_row(fault, "index-blob-size", row, "its size is another one in the file");
      }
    }
    return true;
  }

  // I21.
  bool check_stores(Fault& fault) const {
    const Bytes stores = section(kStores), names = section(kStoreNames);
    uint64_t name_end = 0, left = (uint64_t{1} << 63) - 1;
    std::vector<std::string> lowered;
    for (uint32_t i = 0; i < store_count(); ++i) {
      const auto next = [&stores, this](uint32_t store, uint64_t field, uint64_t otherwise) -> uint64_t {
        return store + 1 < store_count() ? stores.load<uint32_t>(kStoreNbytes * (store + 1) + field) : otherwise;
      };
      const uint64_t at = kStoreNbytes * i, first = stores.load<uint32_t>(at + 40);
      const uint64_t end = next(i, 40, blob_count()), start = stores.load<uint32_t>(at + 44);
      if ((i == 0 && first != 0) || end <= first || end > blob_count()) {
        return refuse_store(fault, i, "its blobs are not the next ones of the table");
      }
      if (start != name_end || next(i, 44, names.size) > names.size || next(i, 44, names.size) < start + 2) {
        return refuse_store(fault, i, "its name does not follow the one before");
      }
      name_end = next(i, 44, names.size);
      const SetStore one = store(i);
      if (names.data[name_end - 1] != 0 || !is_file_name(one.name)) {
        return refuse_store(fault, i, "its name is not that of a file in the folder of the set's index");
      }
      lowered.emplace_back(one.name);
      std::transform(lowered.back().begin(), lowered.back().end(), lowered.back().begin(), lower);
      if (one.nbytes > left) return refuse_store(fault, i, "the set has more bytes than files can have");
      if (!fits(one)) return refuse_store(fault, i, "its blobs do not fit into it");
      left -= one.nbytes;
    }
    std::sort(lowered.begin(), lowered.end());
    if (std::adjacent_find(lowered.begin(), lowered.end()) == lowered.end()) return true;
    return refuse_at(fault, "index-stores", position(kStoreNames), "two stores have the same name, if case is ignored");
  }

  // Whether the blobs of a store end inside of it. Its size is below 2^63, so nothing wraps.
  bool fits(const SetStore& one) const {
    uint64_t end = kBlobAlign;
    for (uint32_t row = one.first_blob; row < one.first_blob + one.blob_count; ++row) {
      if (end > one.nbytes || table_nbytes(row) > one.nbytes - end) return false;
      end = round_up(end + table_nbytes(row), kBlobAlign);
    }
    return end <= one.nbytes;
  }

  template <class... Parts>
  bool refuse_at(Fault& fault, const char* reason, uint64_t offset, const Parts&... message) const {
    return refuse(fault, reason, base_ + offset, message...);
  }

  bool refuse_entry(Fault& fault, const char* reason, Section column, uint32_t i, const char* what) const {
    const uint64_t item = section(column).size / entry_count();
    return refuse_at(fault, reason, position(column) + item * i, "entry ", uint64_t{i}, " of the index: ", what);
  }

  bool refuse_row(Fault& fault, const char* reason, uint32_t row, const char* what) const {
    return refuse_at(fault, reason, position(kBlobKey) + kKeyNbytes * row, "blob ", uint64_t{row}, " of the index (",
                     quoted(table_keys().text(row)), "): ", what);
  }

  bool refuse_store(Fault& fault, uint32_t i, const char* what) const {
    return refuse_at(fault, "index-stores", position(kStores) + kStoreNbytes * i, "store ", uint64_t{i},
                     " of the set: ", what);
  }

  Bytes raw_;
  uint64_t base_ = 0;
  IndexKind kind_ = IndexKind::embedded;
  std::vector<uint32_t> by_key_;  // of a set: rows of the table, sorted by key
  std::array<Bytes, kSectionCount> sections_{};
};

// -------------------------------------------------------------------------------------- toc, keys with a type's letter

inline std::string_view without_zeros(std::string_view text) { return text.substr(0, text.find_last_not_of('\0') + 1); }

// One of the runtime's records: the number of 32-bit words that follow, then its fields. In an older file a record may
// end before its last field; the remaining fields then keep their values. In a newer file more words may follow, which
// are skipped.
class Record {
 public:
  // `base` is the offset of `raw` in its file; `fault` must outlive the record.
  Record(Bytes raw, uint64_t base, Fault& fault) : raw_(raw), base_(base), fault_(fault) {}

  // Moves to the record that begins at this word of `raw`.
  bool begin(uint64_t at) {
    const uint64_t count = raw_.load<uint32_t>(at);
    at_ = at + 4;
    if (count > (raw_.size - at_) / 4) {
      return refuse_word("fields-truncated", "a record says it has ", count, " words, there are ",
                         (raw_.size - at_) / 4);
    }
    end_ = at_ + 4 * count;
    return true;
  }

  // The position after its last word.
  uint64_t end() const { return end_; }

  bool take(uint32_t& value) { return at_ == end_ || take_word(value); }

  bool take(float& value) {
    uint32_t bits = 0;
    if (at_ == end_) return true;
    if (!take_word(bits)) return false;
    if (!raw_.is_finite_f32(at_ - 4)) return refuse_word("fields-number", "a number is not finite");
    value = raw_.load_f32(at_ - 4);
    return true;
  }

  // The number of words, then the text, zero-padded to whole words.
  bool take(std::string_view& text) {
    uint32_t count = 0;
    if (at_ == end_) return true;
    if (!take_word(count)) return false;
    if (count > kMaxTextWords) return refuse_word("fields-string", "a text of ", uint64_t{count}, " words is too long");
    const std::string_view words = raw_.slice(at_, std::min(uint64_t{4} * count, end_ - at_)).text();
    at_ += words.size();
    if (words.size() < std::size_t{4} * count) return refuse_truncated();
    text = without_zeros(words);
    if (words.size() - text.size() >= 4 || text.find('\0') != text.npos || !is_utf8(text)) {
      return refuse_word("fields-string", quoted(words), " is not UTF-8 text, filled with zeros to whole words");
    }
    return true;
  }

 private:
  bool take_word(uint32_t& word) {
    if (at_ == end_) return refuse_truncated();
    word = raw_.load<uint32_t>(at_);
    at_ += 4;
    return true;
  }

  bool refuse_truncated() {
    return refuse(fault_, "fields-truncated", base_ + at_, "in the blob 'toc': a record ends inside a field");
  }

  // The fault is at the word that was read last.
  template <class... Parts>
  bool refuse_word(const char* reason, const Parts&... message) {
    return refuse(fault_, reason, base_ + at_ - 4, "in the blob 'toc': ", message...);
  }

  Bytes raw_;
  uint64_t base_;
  Fault& fault_;
  uint64_t at_ = 0, end_ = 0;
};

// The runtime's record of a tensor, with its defaults.
struct TocEntry {
  std::string_view name;
  uint32_t type = 0, element_bytes = 0, element_count = 0, rows = 0, cols = 0;
  float scale = 1.0f;
  uint32_t stride = 0;  // missing in older files
};

// The runtime's table of contents: records, used in place.
class Toc {
 public:
  bool parse(Bytes raw, uint64_t base, Fault& fault) {
    raw_ = raw;
    base_ = base;
    if (raw.size == 0 || raw.size % 4 != 0) {
      return refuse(fault, "fields-size", base, "'toc' has ", raw.size, " bytes, not a whole number of 32-bit words");
    }
    const bool all_read = read_records(fault);
    return check_names(fault) && all_read;  // a repeated name comes before the unreadable record
  }

  std::size_t count() const { return starts_.size(); }
  uint64_t position(std::size_t i) const { return base_ + starts_[i]; }

  TocEntry entry(std::size_t i) const {
    TocEntry entry;
    Fault none;
    uint64_t at = starts_[i];
    read(at, entry, none);
    return entry;
  }

 private:
  static constexpr uint32_t kMaxType = 31;  // those unknown to this header belong to newer runtimes

  // Reads a record and moves past it.
  bool read(uint64_t& at, TocEntry& entry, Fault& fault) const {
    Record record(raw_, base_, fault);
    if (!(record.begin(at) && record.take(entry.name) && record.take(entry.type) && record.take(entry.element_bytes) &&
          record.take(entry.element_count) && record.take(entry.rows) && record.take(entry.cols) &&
          record.take(entry.scale) && record.take(entry.stride))) {
      return false;
    }
    at = record.end();
    return true;
  }

  // Keeps 8 bytes per record, less than the record takes in the file: at least 12 with a type.
  bool read_records(Fault& fault) {
    for (uint64_t at = 0; at < raw_.size;) {
      const uint64_t start = at;
      TocEntry entry;
      if (!read(at, entry, fault)) return false;
      if (entry.type < 1 || entry.type > kMaxType) {
        return refuse(fault, "toc-type", base_ + start, quoted(entry.name), " has type ", uint64_t{entry.type});
      }
      starts_.push_back(start);
    }
    return true;
  }

  // The name in a checked record: its first field, after the numbers of words.
  std::string_view name_at(uint64_t start) const {
    return without_zeros(raw_.slice(start + 8, uint64_t{4} * raw_.load<uint32_t>(start + 4)).text());
  }

  // Refuses the first record that repeats an earlier name.
  bool check_names(Fault& fault) const {
    std::vector<uint64_t> order = starts_;
    std::sort(order.begin(), order.end(), [this](uint64_t a, uint64_t b) {
      const int names = name_at(a).compare(name_at(b));
      return names != 0 ? names < 0 : a < b;
    });
    uint64_t first = raw_.size;
    for (std::size_t i = 1; i < order.size(); ++i) {
      if (name_at(order[i - 1]) == name_at(order[i])) first = std::min(first, order[i]);
    }
    if (first == raw_.size) return true;
    return refuse(fault, "toc-duplicate", base_ + first, quoted(name_at(first)), " appears twice in 'toc'");
  }

  Bytes raw_;
  uint64_t base_ = 0;
  std::vector<uint64_t> starts_;  // where records begin in `raw_`
};

// The runtime's keys: those of a model's tensors, and the prefixes of those of a layer's.
constexpr std::string_view kModelTensors[] = {
    "c_embedding",    "c_final_norm",  "enc_norm_bias",   "enc_norm_scale", "img_emb_bias",
    "img_emb_kernel", "img_head_bias", "img_head_kernel", "img_pos_emb",    "mm_embed_norm",
};
constexpr std::string_view kLayerTensors[] = {
    "attn_out_w",  "attn_out_b",   "qkv_ein_w",    "qkv_ein_b",  "linear_0_w", "linear_0_b", "linear_1_w",
    "linear_1_b",  "ln_0_bias",    "ln_0_scale",   "ln_1_bias",  "ln_1_scale", "key_norm",   "query_norm",
    "qkv1_w",      "qkv2_w",       "qkv_ein",      "att_ein",    "att_w",      "attn_ob",    "gating_ein",
    "gating1_w",   "gating2_w",    "linear_w",     "pre_att_ns", "pre_ff_ns",  "post_att_ns", "post_ff_ns",
    "ffw_gat_b",   "ffw_out_b",    "gr_lin_x_w",   "gr_lin_x_b", "gr_lin_y_w", "gr_lin_y_b", "gr_lin_out_w",
    "gr_lin_out_b", "gr_conv_w",   "gr_conv_b",    "gr_gate_w",  "gr_gate_b",  "gr_a",
};

// The keys with a scale in 'Fscales', in its order inside a layer.
constexpr std::string_view kScaledTensors[] = {"att_ein", "qkv_ein", "gating_ein", "linear_w"};

template <std::size_t Count>
std::size_t place_in(const std::string_view (&list)[Count], std::string_view text) {
  return static_cast<std::size_t>(std::find(list, list + Count, text) - list);  // Count: not found
}

template <std::size_t Count>
bool is_in(const std::string_view (&list)[Count], std::string_view text) {
  return place_in(list, text) < Count;
}

// A layer tensor's key: its prefix, '_', and the layer, 0 to 999 without leading zeros.
struct LayerKey {
  std::string_view base;
  uint32_t layer = 0;

  // Empty optional for any other key.
  static std::optional<LayerKey> from(std::string_view key) {
    const std::size_t underscore = key.rfind('_');
    if (underscore == key.npos || !is_in(kLayerTensors, key.substr(0, underscore))) return std::nullopt;
    const std::string_view digits = key.substr(underscore + 1);
    if (digits.empty() || digits.size() > 3 || (digits.size() > 1 && digits[0] == '0')) return std::nullopt;
    if (digits.find_first_not_of("0123456789") != digits.npos) return std::nullopt;
    LayerKey parts{key.substr(0, underscore)};
    for (const char digit : digits) parts.layer = 10 * parts.layer + static_cast<uint32_t>(digit - '0');
    return parts;
  }
};

// Blobs that are not tensors: the runtime's own, and those of the name index and of packed files.
constexpr std::string_view kNoTensors[] = {
    "config", "tokenizer", "toc", "Fscales", kIndexKey, "~packed", "~packed.idx",
};

// The tensors of a file without an index: those that 'toc' lists; without a toc, those that the keys of a file from
// before 2025 describe; otherwise each blob except kNoTensors, as bytes.
class Catalog {
 public:
  bool build(const Directory& directory, Fault& fault) {
    const auto toc = directory.find("toc");
    if (toc && !list_toc(directory, *toc, fault)) return false;
    if (!toc) list_letters(directory);
    const bool letters = !toc && !listed_.empty();
    if (listed_.empty()) list_bytes(directory);  // so there is no 'toc': a toc lists something or is refused
    by_name_ = sorted(directory);
    return !letters || (check_names(directory, fault) && take_scales(directory, fault));
  }

  uint32_t count() const { return static_cast<uint32_t>(listed_.size()); }

  Tensor tensor(uint32_t i, const Directory& directory) const {
    const Listed& one = listed_[i];
    const Blob blob = directory.blob(one.place);
    Tensor tensor;
    tensor.name = name(i, directory);
    tensor.key = blob.key;
    tensor.type = one.type;
    tensor.ndim = one.ndim;
    std::copy(one.dims.begin(), one.dims.end(), tensor.dims.begin());
    tensor.scale = one.scale;
    tensor.offset = blob.offset;
    tensor.nbytes = blob.nbytes;
    tensor.data = blob.data;
    return tensor;
  }

  // The position of the tensor whose name comes after `rank` others, and that name.
  uint32_t by_name(uint32_t rank) const { return by_name_[rank]; }
  std::string_view sorted_name(uint32_t rank, const Directory& directory) const {
    return name(by_name_[rank], directory);
  }

  std::optional<uint32_t> find(std::string_view wanted, const Directory& directory) const {
    const auto less = [&](uint32_t i, std::string_view text) { return name(i, directory) < text; };
    const auto found = std::lower_bound(by_name_.begin(), by_name_.end(), wanted, less);
    if (found == by_name_.end() || name(*found, directory) != wanted) return std::nullopt;
    return *found;
  }

 private:
  static constexpr std::string_view kLetters = "FB$2I";
  static constexpr uint16_t kLetterTypes[] = {1, 2, 3, 4, 8};

  // A tensor fills its blob, and its name is the key or the end of the key, so there are at most kMaxBlobs tensors.
  struct Listed {
    std::array<uint64_t, 2> dims{};
    float scale = 1.0f;
    uint32_t place = 0;  // position of its blob
    uint16_t type = 0;
    uint8_t ndim = 1;
    uint8_t name_start = 0;  // in the key
  };

  std::string_view name(uint32_t i, const Directory& directory) const {
    return directory.keys().text(listed_[i].place).substr(listed_[i].name_start);
  }

  std::vector<uint32_t> sorted(const Directory& directory) const {
    std::vector<uint32_t> order(listed_.size());
    for (uint32_t i = 0; i < count(); ++i) order[i] = i;
    std::sort(order.begin(), order.end(),
              [&](uint32_t a, uint32_t b) { return name(a, directory) < name(b, directory); });
    return order;
  }

  // Joins the toc with the directory.
  bool list_toc(const Directory& directory, uint32_t toc_place, Fault& fault) {
    const Blob blob = directory.blob(toc_place);
    Toc toc;
    if (!toc.parse({blob.data, blob.nbytes}, blob.offset, fault)) return false;
    for (std::size_t i = 0; i < toc.count(); ++i) {
      const TocEntry entry = toc.entry(i);
      const auto place = directory.find(entry.name);
      if (!place) {
        return refuse(fault, "toc-missing-blob", toc.position(i), "'toc' lists ", quoted(entry.name),
                      ", but the file has no such blob");
      }
      const uint64_t count = uint64_t{entry.rows} * entry.cols;
      const uint64_t nbytes = directory.nbytes(*place);
      const ElementType* type = element_type(static_cast<uint16_t>(entry.type));
      // The element size of a newer type is unknown: the tensor is its whole blob, whatever the size.
      if (count > kMaxElements || (type ? type->nbytes(count) != nbytes : count == 0)) {
        return refuse(fault, "toc-size", toc.position(i), "'toc' says that ", quoted(entry.name), " has type ",
                      uint64_t{entry.type}, " and ", uint64_t{entry.rows}, " x ", uint64_t{entry.cols},
                      " elements; its blob has ", nbytes, " bytes");
      }
      if (entry.stride != 0 && entry.stride != entry.cols) {
        return refuse(fault, "toc-stride", toc.position(i), "'toc' says that the rows of ", quoted(entry.name), " are ",
                      uint64_t{entry.stride}, " elements apart, expected ", uint64_t{entry.cols},
                      ": padding was written among its values, which are wrong (blobstore rewrite --drop leaves it ",
                      "out)");
      }
      listed_.push_back({{entry.rows, entry.cols}, entry.scale, *place, static_cast<uint16_t>(entry.type), 2, 0});
    }
    return true;
  }

  void list_letters(const Directory& directory) {
    for (uint32_t place = 0; place < directory.count(); ++place) {
      const std::string_view key = directory.keys().text(place), rest = key.substr(1);
      const std::size_t letter = kLetters.find(key[0]);
      if (letter == kLetters.npos || !(is_in(kModelTensors, rest) || LayerKey::from(rest))) continue;
      const uint16_t type = kLetterTypes[letter];
      const uint64_t count = element_type(type)->elements_in(directory.nbytes(place));
      // Otherwise its bytes are not of the letter's type: an ordinary blob.
      if (count != 0) listed_.push_back({{count}, 1.0f, place, type, 1, 1});
    }
  }

  bool check_names(const Directory& directory, Fault& fault) const {
    for (std::size_t i = 1; i < by_name_.size(); ++i) {
      const std::string_view one = name(by_name_[i], directory);
      if (name(by_name_[i - 1], directory) == one) {
        return refuse(fault, "letters-duplicate", directory.offset(listed_[by_name_[i]].place),
                      "two blobs are the tensor ", quoted(one), ", in different types");
      }
    }
    return true;
  }

  // One scale for each tensor that has one, layer by layer.
  bool take_scales(const Directory& directory, Fault& fault) {
    const auto place = directory.find("Fscales");
    if (!place) return true;
    const Blob blob = directory.blob(*place);
    const Bytes scales{blob.data, blob.nbytes};
    if (scales.size % 4 != 0) {
      return refuse(fault, "scales-count", blob.offset, "'Fscales' has ", scales.size, " bytes, not whole f32");
    }
    for (uint64_t at = 0; at < scales.size; at += 4) {
      if (!scales.is_finite_f32(at)) return refuse(fault, "scales-number", blob.offset + at, "a scale is not finite");
    }
    // For each: its layer, its position in the layer, and its position in the list.
    std::vector<std::array<uint32_t, 3>> order;
    for (uint32_t i = 0; i < count(); ++i) {
      const auto parts = LayerKey::from(name(i, directory));
      if (!parts || !is_in(kScaledTensors, parts->base)) continue;
      order.push_back({parts->layer, static_cast<uint32_t>(place_in(kScaledTensors, parts->base)), i});
    }
    if (order.size() != scales.size / 4) {
      return refuse(fault, "scales-count", blob.offset, "'Fscales' has ", scales.size / 4, " scales for ",
                    uint64_t{order.size()}, " tensors that have one");
    }
    std::sort(order.begin(), order.end());
    for (std::size_t i = 0; i < order.size(); ++i) listed_[order[i][2]].scale = scales.load_f32(4 * uint64_t{i});
    return true;
  }

  void list_bytes(const Directory& directory) {
    for (uint32_t place = 0; place < directory.count(); ++place) {
      const std::string_view key = directory.keys().text(place);
      if (is_in(kNoTensors, key)) continue;
      listed_.push_back({{directory.nbytes(place)}, 1.0f, place, 0, 1, 0});
    }
  }

  std::vector<Listed> listed_;
  std::vector<uint32_t> by_name_;  // positions in it
};

// ----------------------------------------------------------------------------------------------------------- mapping

#if !defined(BLOBSTORE_NO_MMAP)

inline bool is_regular_file(const std::string& path) {
  struct stat status;
  return ::stat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode);
}

// Where the external index of a file is: beside its path or, if that is a link, beside the file itself; empty if nothing
// is there. A folder is nothing; what else can't be read is a fault, which opening it reports.
inline std::string external_index_of(const std::string& path) {
  const auto is_there = [](const std::string& beside) {
    struct stat status;
    if (::lstat(beside.c_str(), &status) != 0) return false;
    return ::stat(beside.c_str(), &status) != 0 || !S_ISDIR(status.st_mode);
  };
  if (is_there(path + ".idx")) return path + ".idx";
  struct stat status;
  if (::lstat(path.c_str(), &status) != 0 || !S_ISLNK(status.st_mode)) return {};
  char* const resolved = ::realpath(path.c_str(), nullptr);
  const std::string beside = resolved != nullptr ? std::string(resolved) + ".idx" : std::string();
  std::free(resolved);
  return !beside.empty() && is_there(beside) ? beside : std::string();
}

// A file, mapped read-only.
class Mapping {
 public:
  Mapping() = default;
  Mapping(Mapping&& other) noexcept : bytes_(std::exchange(other.bytes_, Bytes{})) {}
  Mapping& operator=(Mapping&& other) noexcept {
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Mapping() {
    if (bytes_.size != 0) ::munmap(const_cast<uint8_t*>(bytes_.data), static_cast<std::size_t>(bytes_.size));
  }

  Bytes bytes() const { return bytes_; }

  bool open(const std::string& path, Fault& fault) {
    fault.path = path;
    // O_NONBLOCK: otherwise opening a pipe would wait for its other end. It makes no difference for a file.
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return os_error(fault);
    const bool mapped = map(fd, fault);
    ::close(fd);  // the map keeps the file open
    return mapped;
  }

 private:
  bool map(int fd, Fault& fault) {
    struct stat status;
    if (::fstat(fd, &status) != 0) return os_error(fault);
    if (!S_ISREG(status.st_mode)) return refuse(fault, "not-a-file", 0, "expected a regular file");
    const auto size = static_cast<uint64_t>(status.st_size);
    if (size == 0) return true;  // can't be mapped; S1 or I1 reports the fault
    if (size > PTRDIFF_MAX) return refuse(fault, "os-error", 0, "too large for this machine's address space");
    void* at = ::mmap(nullptr, static_cast<std::size_t>(size), PROT_READ, MAP_PRIVATE, fd, 0);
    if (at == MAP_FAILED) return os_error(fault);
    bytes_ = {static_cast<const uint8_t*>(at), size};
    return true;
  }

  static bool os_error(Fault& fault) { return refuse(fault, "os-error", 0, std::generic_category().message(errno)); }

  Bytes bytes_;
};

#endif

}  // namespace detail

// ------------------------------------------------------------------------------------------------------------- store

// An open, checked file. Movable; any number of threads may call its const methods at once.
class Store {
 public:
  // Some of its tensors, for range-for; each is gathered when it is reached. Valid as long as the store, in its place.
  class Tensors {
   public:
    class Iterator {
     public:
      using iterator_category = std::input_iterator_tag;
      using value_type = Tensor;
      using difference_type = std::ptrdiff_t;
      using pointer = const Tensor*;
      using reference = Tensor;

      Tensor operator*() const { return sorted_ ? store_->tensor_by_name(i_) : store_->tensor(i_); }
      Iterator& operator++() { return ++i_, *this; }
      Iterator operator++(int) { return std::exchange(*this, Iterator(store_, sorted_, i_ + 1)); }
      friend bool operator==(const Iterator& a, const Iterator& b) { return a.i_ == b.i_; }
      friend bool operator!=(const Iterator& a, const Iterator& b) { return a.i_ != b.i_; }

     private:
      friend class Tensors;
      Iterator(const Store* store, bool sorted, uint32_t i) : store_(store), sorted_(sorted), i_(i) {}

      const Store* store_;
      bool sorted_;
      uint32_t i_;
    };

    Iterator begin() const { return {store_, sorted_, first_}; }
    Iterator end() const { return {store_, sorted_, last_}; }
    uint32_t size() const { return last_ - first_; }
    bool empty() const { return last_ == first_; }

   private:
    friend class Store;
    Tensors(const Store* store, bool sorted, uint32_t first, uint32_t last)
        : store_(store), sorted_(sorted), first_(first), last_(last) {}

    const Store* store_;
    bool sorted_;  // by name
    uint32_t first_, last_;
  };

#if !defined(BLOBSTORE_NO_MMAP)
  // Maps a file, and the index beside it ("model.sbs.idx") if it has none inside; or, given the index of a set, all files
  // of the set. On failure returns an empty optional; `fault` says why.
  static std::optional<Store> open(const std::string& path, Fault& fault) {
    Store store;
    if (!store.file_mapping_.open(path, fault)) return std::nullopt;
    if (detail::is_set_index(store.file_mapping_.bytes())) {
      if (!store.index_.emplace().parse_set(store.file_mapping_.bytes(), fault)) return std::nullopt;
      if (!store.map_stores(path, fault)) return std::nullopt;
      return std::optional<Store>(std::move(store));
    }
    if (!store.load_file(store.file_mapping_.bytes(), fault)) return std::nullopt;
    const std::string beside = store.has_index() ? std::string() : detail::external_index_of(path);
    if (!beside.empty()) {
      if (!store.index_mapping_.open(beside, fault)) return std::nullopt;
      if (!store.load_index(store.index_mapping_.bytes(), 0, true, fault)) return std::nullopt;
    }
    if (!store.has_index() && !store.catalog_.build(store.directory(), fault)) return std::nullopt;
    return std::optional<Store>(std::move(store));
  }

#if defined(__cpp_exceptions)
  static Store open(const std::string& path) {
    Fault fault;
    std::optional<Store> store = open(path, fault);
    if (!store) throw Error(fault);
    return std::move(*store);
  }
#endif
#endif

  // The same for bytes that must stay in place as long as the Store lives. `external_index` has the bytes of the file
  // beside it, if there is one.
  static std::optional<Store> from_memory(Bytes file, std::optional<Bytes> external_index, Fault& fault) {
    fault = Fault{};
    Store store;
    if (!store.load_file(file, fault)) return std::nullopt;
    if (!store.has_index() && external_index && !store.load_index(*external_index, 0, true, fault)) {
      return std::nullopt;
    }
    if (!store.has_index() && !store.catalog_.build(store.directory(), fault)) return std::nullopt;
    return std::optional<Store>(std::move(store));
  }

  // The same for a set: its index, and its files in the order of the index (see `set_files`), all in place.
  static std::optional<Store> set_from_memory(Bytes index, const std::vector<Bytes>& files, Fault& fault) {
    fault = Fault{};
    Store store;
    if (!store.index_.emplace().parse_set(index, fault)) return std::nullopt;
    const uint32_t count = store.index_->store_count();
    for (uint32_t i = 0; i < count && i < files.size(); ++i) {
      if (!store.load_store(i, files[i], fault)) return std::nullopt;
    }
    if (files.size() != count) {
      detail::refuse(fault, "set-missing-store", 0, "the set has ", uint64_t{count}, " files, given are ",
                     uint64_t{files.size()});
      return std::nullopt;
    }
    return std::optional<Store>(std::move(store));
  }

  // The names of the files of a set, in the folder of its index.
  static std::optional<std::vector<std::string>> set_files(Bytes index, Fault& fault) {
    fault = Fault{};
    detail::Index parsed;
    if (!parsed.parse_set(index, fault)) return std::nullopt;
    std::vector<std::string> names;
    for (uint32_t i = 0; i < parsed.store_count(); ++i) names.emplace_back(parsed.store(i).name);
    return names;
  }

  // The version of the container, 1 or 2.
  int version() const { return directory().version(); }

  // The files of a set, whose numbers tensors and blobs have, and their names; 0 for what is one file.
  uint32_t store_count() const { return has_index() ? index_->store_count() : 0; }
  std::string_view store_name(uint32_t i) const { return index_->store(i).name; }

  bool has_index() const { return index_.has_value(); }

  // Blobs, in file order, and by key. Of a set: all but what describes its files, "~index" and the like.
  uint32_t blob_count() const { return store_count() != 0 ? index_->blob_count() : directory().count(); }
  Blob blob(uint32_t place) const {
    if (store_count() == 0) return directory().blob(place);
    const auto [store, place_there] = index_->store_of(place);
    Blob found = directories_[store].blob(place_there);
    found.store = store;
    return found;
  }
  std::optional<Blob> find_blob(std::string_view key) const {
    const auto place = store_count() != 0 ? index_->find_row(key) : directory().find(key);
    return place ? std::optional<Blob>(blob(*place)) : std::nullopt;
  }

  // A file that the store carries, such as "config.json": a view of its bytes, valid as long as the store.
  std::optional<Blob> find_file(std::string_view name) const {
    const auto key = file_key(name);
    return key ? find_blob(key->text()) : std::nullopt;
  }

  // Tensors, sorted by the bytes of their names (without an index: in the order of 'toc', or of the file), and by name.
  uint32_t tensor_count() const { return has_index() ? index_->entry_count() : catalog_.count(); }
  Tensor tensor(uint32_t i) const { return has_index() ? indexed_tensor(i) : catalog_.tensor(i, directory()); }
  std::optional<Tensor> find(std::string_view name) const {
    const auto i = has_index() ? index_->find(name) : catalog_.find(name, directory());
    return i ? std::optional<Tensor>(tensor(*i)) : std::nullopt;
  }

  // All tensors, as tensor(i) has them.
  Tensors tensors() const& { return {this, false, 0, tensor_count()}; }
  Tensors tensors() const&& = delete;  // of a store that would be gone

  // The tensors whose names begin with this one and a dot, sorted by the bytes of their names; for an empty one all. A
  // binary search, without an allocation.
  Tensors prefix(std::string_view name) const& {
    if (name.empty()) return {this, true, 0, tensor_count()};
    while (!name.empty() && name.back() == '.') name.remove_suffix(1);
    return {this, true, rank(name, '.'), rank(name, '/')};  // '/' follows '.'
  }
  Tensors prefix(std::string_view) const&& = delete;

  // The SHA-256 of the blob under a key, as the index has it: compare with sha256(blob.bytes()). An empty optional if
  // nothing lists it.
  std::optional<Digest> digest(std::string_view key) const {
    if (!has_index()) return std::nullopt;
    const auto row = store_count() != 0 ? index_->find_row(key) : index_->find_row(key, directory());
    return row ? index_->sha256(*row) : std::nullopt;
  }

  // The metadata as stored, a JSON object of strings; empty without an index.
  std::string_view metadata_json() const { return has_index() ? index_->metadata() : std::string_view(); }

  // Calls visit(key, value) for each pair of the metadata, two std::string of UTF-8.
  template <class Visit>
  void for_each_metadata(Visit visit) const {
    detail::MetadataWalk walk(metadata_json());
    std::string_view key, value;
    while (walk.next(key, value) == detail::MetadataWalk::Step::pair) {
      visit(detail::unescaped(key), detail::unescaped(value));
    }
  }

 private:
  Store() = default;

  // The directory, and the embedded index, which hides one beside the file.
  bool load_file(Bytes file, Fault& fault) {
    if (!directories_.emplace_back().parse(file, fault)) return false;
    const auto inside = find_blob(detail::kIndexKey);
    return !inside || load_index({inside->data, inside->nbytes}, inside->offset, false, fault);
  }

  bool load_index(Bytes raw, uint64_t base, bool external, Fault& fault) {
    return index_.emplace().parse(raw, base, external, directory(), fault);
  }

  // I23 and I24.
  bool load_store(uint32_t i, Bytes file, Fault& fault) {
    const detail::SetStore listed = index_->store(i);
    if (file.size != listed.nbytes) {
      return detail::refuse(fault, "set-stale", 0, "the set was made for a file of ", listed.nbytes,
                            " bytes, this one has ", file.size);
    }
    return directories_.emplace_back().parse(file, fault) && index_->check_store(i, directories_.back(), fault);
  }

#if !defined(BLOBSTORE_NO_MMAP)
  // I22 to I24.
  bool map_stores(const std::string& path, Fault& fault) {
    const std::size_t slash = path.rfind('/');
    const std::string folder = slash == std::string::npos ? std::string() : path.substr(0, slash + 1);
    for (uint32_t i = 0; i < index_->store_count(); ++i) {
      const std::string name = folder + std::string(index_->store(i).name);
      fault.path = name;
      if (!detail::is_regular_file(name)) {
        return detail::refuse(fault, "set-missing-store", 0, "a file of the set is missing");
      }
      if (!store_mappings_.emplace_back().open(name, fault)) return false;
      if (!load_store(i, store_mappings_.back().bytes(), fault)) return false;
    }
    fault.path.clear();
    return true;
  }
#endif

  const detail::Directory& directory() const { return directories_.front(); }

  Tensor tensor_by_name(uint32_t rank) const { return tensor(has_index() ? rank : catalog_.by_name(rank)); }

  // The number of names that are smaller than this text with one more character behind it.
  uint32_t rank(std::string_view text, char next) const {
    uint32_t low = 0, high = tensor_count();
    while (low < high) {
      const uint32_t middle = low + (high - low) / 2;
      const std::string_view name =
          has_index() ? index_->name(middle) : catalog_.sorted_name(middle, directory());
      const int order = name.substr(0, text.size()).compare(text);
      const bool ends = name.size() <= text.size();
      const bool smaller =
          order != 0 ? order < 0 : ends || static_cast<uint8_t>(name[text.size()]) < static_cast<uint8_t>(next);
      (smaller ? low : high) = smaller ? middle + 1 : middle;
    }
    return low;
  }

  Tensor indexed_tensor(uint32_t i) const {
    const detail::Entry entry = index_->entry(i);
    Tensor tensor;
    tensor.name = index_->name(i);
    tensor.type = entry.type;
    tensor.codec = entry.codec;
    tensor.ndim = index_->ndim(entry.shape);
    for (uint32_t axis = 0; axis < tensor.ndim; ++axis) tensor.dims[axis] = index_->dim(entry.shape, axis);
    tensor.scale = entry.scale;
    tensor.nbytes = entry.nbytes;
    if (entry.blob != detail::kNoBlob) {
      const Blob blob_of_it = blob(store_count() != 0 ? entry.blob : *index_->place(entry.blob, directory()));
      tensor.store = blob_of_it.store;
      tensor.key = blob_of_it.key;
      tensor.offset = blob_of_it.offset + entry.offset;
      if (tensor.is_packed()) {
        tensor.stream = {blob_of_it.data, blob_of_it.nbytes};
        tensor.unpacked_nbytes = index_->unpacked_nbytes(entry);
        tensor.unpacked_offset = entry.offset;
      } else {
        tensor.data = blob_of_it.data + entry.offset;
      }
    }
    return tensor;
  }

#if !defined(BLOBSTORE_NO_MMAP)
  detail::Mapping file_mapping_, index_mapping_;
  std::vector<detail::Mapping> store_mappings_;
#endif
  std::vector<detail::Directory> directories_;  // of the file, or of each file of the set
  std::optional<detail::Index> index_;
  detail::Catalog catalog_;  // empty with an index
};

// ------------------------------------------------------------------------------------------------------ packed blobs

#if defined(BLOBSTORE_ZSTD)

namespace detail {

// The CRC-32 of zlib and PNG. Bit by bit, since it covers headers and tables only.
inline uint32_t crc32(Bytes bytes) {
  uint32_t crc = 0xFFFFFFFF;
  for (uint64_t at = 0; at < bytes.size; ++at) {
    crc ^= bytes.data[at];
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ ((crc & 1) != 0 ? 0xEDB88320u : 0u);
  }
  return ~crc;
}

// Assembles elements from their planes, which are `stride` apart, the highest byte's first. `is_signed`: the sign is
// the last of the highest nine bits.
template <std::size_t Width>
void merge(const uint8_t* planes, uint64_t stride, uint64_t count, bool is_signed, uint8_t* out) {
  for (uint64_t i = 0; i < count; ++i, out += Width) {
    for (std::size_t plane = 0; plane < Width; ++plane) out[Width - 1 - plane] = planes[plane * stride + i];
    if constexpr (Width > 1) {
      if (!is_signed) continue;
      const unsigned exponent = planes[i], rest = planes[stride + i];
      out[Width - 1] = static_cast<uint8_t>((rest & 0x80) | exponent >> 1);
      out[Width - 2] = static_cast<uint8_t>((exponent & 1) << 7 | (rest & 0x7F));
    }
  }
}

// Adds eight bytes to eight others, without carries from one byte into the next.
inline uint64_t add_bytes(uint64_t one, uint64_t other) {
  constexpr uint64_t kHighest = 0x8080808080808080;
  return ((one & ~kHighest) + (other & ~kHighest)) ^ ((one ^ other) & kHighest);
}

// Writes escapes at the positions that their gaps give.
inline bool put_placed(const uint8_t* gaps, uint64_t nbytes, uint8_t* plane, uint64_t count) {
  const uint64_t escapes = nbytes / 3;
  const uint8_t* escape = gaps + 2 * escapes;
  uint64_t place = 0;
  for (uint64_t k = 0; k < escapes; ++k) {
    place += gaps[2 * k] + uint64_t{gaps[2 * k + 1]} * 256;
    if (place >= count) return false;
    plane[place] = escape[k];
  }
  return nbytes % 3 == 0;
}

// Writes escapes over the marks, in order.
inline bool put_marked(const uint8_t* escapes, uint64_t nbytes, int mark, uint8_t* plane, uint64_t count) {
  uint8_t *rest = plane, *end = plane + count;
  for (uint64_t k = 0; k < nbytes; ++k) {
    rest = static_cast<uint8_t*>(std::memchr(rest, mark, static_cast<std::size_t>(end - rest)));
    if (rest == nullptr) return false;
    *rest++ = escapes[k];
  }
  return std::memchr(rest, mark, static_cast<std::size_t>(end - rest)) == nullptr;
}

// Decodes a plane of `count` bytes from its pairs; `nbytes` is at least half of `count`, rounded up, plus two. False if
// an escape is cut off or has no position, or if a code belongs to no byte.
inline bool unpair(const uint8_t* pairs, uint64_t nbytes, uint64_t count, uint8_t* plane) {
  constexpr uint64_t kEach = 0x0101010101010101;
  const uint64_t both = count / 2, half = count - both;
  const uint8_t base = pairs[half];
  uint64_t i = 0;
  for (; i + 8 <= both; i += 8) {
    uint64_t codes = 0;
    std::memcpy(&codes, pairs + i, 8);
    const uint64_t lower = add_bytes(codes & 15 * kEach, base * kEach);
    const uint64_t upper = add_bytes(codes >> 4 & 15 * kEach, base * kEach);
    std::memcpy(plane + i, &lower, 8);
    std::memcpy(plane + half + i, &upper, 8);
  }
  for (; i < half; ++i) {
    plane[i] = static_cast<uint8_t>(base + (pairs[i] & 15));
    if (i < both) {
      plane[half + i] = static_cast<uint8_t>(base + (pairs[i] >> 4));
    } else if (pairs[i] > 15) {
      return false;
    }
  }
  const uint8_t* tail = pairs + half + 2;
  const uint64_t rest = nbytes - half - 2;
  switch (pairs[half + 1]) {
    case 0: return put_placed(tail, rest, plane, count);
    case 1: return put_marked(tail, rest, static_cast<uint8_t>(base + 15), plane, count);
    default: return false;
  }
}

}  // namespace detail

// A packed blob: bytes, compressed without loss into a stream with random access to any range. Header and table are
// checked when it is opened, frames when they are read. Movable; each thread needs its own.
class Packed {
 public:
  // P1 to P11. `stream` must stay in place; `offset` is its offset in the file, for the offsets of faults.
  static std::optional<Packed> open(Bytes stream, uint64_t offset, Fault& fault) {
    fault = Fault{};
    Packed packed;
    packed.stream_ = stream;
    packed.offset_ = offset;
    if (!packed.check_header(fault) || !packed.check_table(fault)) return std::nullopt;
    packed.zstd_.reset(ZSTD_createDCtx());
    if (!packed.zstd_) {
      packed.refuse_at(fault, "os-error", 0, "no memory for a decoder");
      return std::nullopt;
    }
    return std::optional<Packed>(std::move(packed));
  }

  // The unpacked size, and how many bytes are decoded together.
  uint64_t nbytes() const { return nbytes_; }
  uint64_t chunk_nbytes() const { return chunk_ * width_; }

  // The SHA-256 of the base of a difference, all nbytes() of it; an empty optional if it isn't a difference.
  std::optional<Bytes> base_sha256() const {
    return is_difference_ ? std::optional<Bytes>(stream_.slice(40, 32)) : std::nullopt;
  }

  // Takes the base of a difference, which must stay in place. It is hashed once, here.
  bool take_base(Bytes base, Fault& fault) {
    fault = Fault{};
    if (!is_difference_) return refuse_at(fault, "needless-base", 12, "it is not a difference, and has no base");
    if (base.size != nbytes_) {
      return refuse_at(fault, "wrong-base", 16, "its base has ", nbytes_, " bytes, not ", base.size);
    }
    const detail::Sha256::Digest digest = detail::Sha256::of(base.data, base.size);
    if (!std::equal(digest.begin(), digest.end(), stream_.data + 40)) {
      return refuse_at(fault, "wrong-base", 40, "its base has another SHA-256");
    }
    base_ = base;
    return true;
  }

  // Decodes a range of bytes. Reads only the chunks that the range touches, and keeps the last one. After a fault, the
  // contents of `out` are unspecified.
  bool read(uint64_t start, uint64_t nbytes, uint8_t* out, Fault& fault) {
    fault = Fault{};
    if (start > nbytes_ || nbytes > nbytes_ - start) {
      return refuse_at(fault, "packed-range", 0, nbytes, " bytes from ", start, " are not inside of ", nbytes_);
    }
    if (is_difference_ && !base_) return refuse_at(fault, "needs-base", 40, "it is a difference: give it its base");
    const uint64_t stop = start + nbytes, body = nbytes_ - nbytes_ % width_;
    while (start < std::min(stop, body)) {
      const uint64_t chunk = start / chunk_nbytes(), first = chunk * chunk_nbytes();
      const uint64_t count = std::min(chunk_, (body - first) / width_);
      const uint64_t end = std::min(stop, first + count * width_);
      if (!decode(chunk, count, fault)) return false;
      take(count, start - first, end - first, out);
      for (uint64_t i = 0; base_ && i < end - start; ++i) out[i] ^= base_->data[start + i];
      out += end - start;
      start = end;
    }
    for (; start < stop; ++start) *out++ = stream_.data[32 + (start - body)];
    return true;
  }

 private:
  static constexpr uint64_t kPackedHeaderNbytes = 80, kCrcNbytes = 4, kFrameField = 4;
  static constexpr uint64_t kMinFrameNbytes = 14;  // magic, descriptor, size, a block of one byte, checksum
  static constexpr uint64_t kMaxChunk = uint64_t{1} << 20;
  static constexpr uint32_t kDifference = 1;
  static constexpr uint32_t kZstdMagic = 0xFD2FB528;
  static constexpr uint8_t kDescriptor = 0x24;  // a single segment, with a checksum, without a dictionary

  struct FreeDecoder {
    void operator()(ZSTD_DCtx* decoder) const { ZSTD_freeDCtx(decoder); }
  };

  Packed() = default;

  template <class... Parts>
  bool refuse_at(Fault& fault, const char* reason, uint64_t offset, const Parts&... message) const {
    return detail::refuse(fault, reason, offset_ + offset, message...);
  }

  // P1 to P8.
  bool check_header(Fault& fault) {
    if (stream_.size < kPackedHeaderNbytes + kCrcNbytes) {
      return refuse_at(fault, "packed-truncated", 0, "a packed blob has at least 84 bytes, this has ", stream_.size);
    }
    const std::string_view magic = stream_.slice(0, 8).text();
    if (magic != "SBSPACKD") {
      return refuse_at(fault, "packed-magic", 0, "expected 'SBSPACKD', found ", detail::quoted(magic));
    }
    const uint64_t version = stream_.load<uint32_t>(8), flags = stream_.load<uint32_t>(12);
    if (version != 1) return refuse_at(fault, "packed-version", 8, "expected version 1, found ", version);
    if (detail::crc32(stream_.slice(0, 76)) != stream_.load<uint32_t>(76)) {
      return refuse_at(fault, "packed-header", 76, "the header is damaged: its CRC-32 is another");
    }
    if ((flags & ~kDifference) != 0) return refuse_at(fault, "packed-flags", 12, "flags ", flags, " are not known");
    is_difference_ = (flags & kDifference) != 0;
    nbytes_ = stream_.load<uint64_t>(16);
    width_ = stream_.data[24];
    const uint64_t is_signed = stream_.data[25];
    const bool known = width_ == 1 || width_ == 2 || width_ == 4 || width_ == 8;
    if (!known || is_signed > (width_ > 1)) {
      return refuse_at(fault, "packed-layout", 24, "width ", width_, " with sign ", is_signed, " is not a layout");
    }
    is_signed_ = is_signed != 0;
    chunk_ = stream_.load<uint32_t>(28);
    if (chunk_ < 1 || chunk_ > kMaxChunk) {
      return refuse_at(fault, "packed-chunk", 28, "a chunk has 1 to 1048576 elements, not ", chunk_);
    }
    const uint64_t tail = nbytes_ % width_;
    const bool zeros = stream_.all_zero(26, 2) && stream_.all_zero(32 + tail, 8 - tail) && stream_.all_zero(72, 4);
    if (!zeros || (!is_difference_ && !stream_.all_zero(40, 32))) {
      return refuse_at(fault, "packed-reserved", 26, "reserved or unused bytes of the header are not 0");
    }
    return true;
  }

  // P9 to P11. The stream's size bounds the number of frames before anything is allocated for them.
  bool check_table(Fault& fault) {
    const uint64_t elements = nbytes_ / width_;
    const uint64_t count = (elements / chunk_ + (elements % chunk_ != 0)) * width_;  // at most nbytes_: can't wrap
    if (count > (stream_.size - kPackedHeaderNbytes - kCrcNbytes) / (kMinFrameNbytes + kFrameField)) {
      return refuse_at(fault, "packed-table", 16, count, " frames and their table do not fit into ", stream_.size,
                       " bytes");
    }
    const uint64_t table = stream_.size - kCrcNbytes - kFrameField * count;
    if (detail::crc32(stream_.slice(table, kFrameField * count)) !=
        stream_.load<uint32_t>(stream_.size - kCrcNbytes)) {
      return refuse_at(fault, "packed-table-crc", table, "the table is damaged, or cut off: its CRC-32 is another");
    }
    starts_.reserve(static_cast<std::size_t>(count + 1));
    starts_.push_back(kPackedHeaderNbytes);
    for (uint64_t i = 0; i < count; ++i) {
      const uint64_t size = stream_.load<uint32_t>(table + kFrameField * i);
      if (size < kMinFrameNbytes || size > table - starts_.back()) {
        return refuse_at(fault, "packed-sizes", table, "frame ", i, " can't have ", size, " bytes");
      }
      starts_.push_back(starts_.back() + size);
    }
    if (starts_.back() != table) {
      return refuse_at(fault, "packed-sizes", table, "the frames end at ", starts_.back(), ", the table begins at ",
                       table);
    }
    return true;
  }

  // All planes of a chunk of `count` elements.
  bool decode(uint64_t chunk, uint64_t count, Fault& fault) {
    if (decoded_ == chunk) return true;
    decoded_.reset();
    for (uint64_t plane = 0; plane < width_; ++plane) {
      if (!decode_plane(chunk * width_ + plane, count, plane * count, fault)) return false;
    }
    decoded_ = chunk;
    return true;
  }

  // P12 to P14.
  bool decode_plane(uint64_t place, uint64_t count, uint64_t at, Fault& fault) {
    const Bytes frame = stream_.slice(starts_[place], starts_[place + 1] - starts_[place]);
    const std::optional<uint64_t> stated = content_nbytes(frame);
    const bool is_paired = stated && *stated > count - count / 2 + 1 && *stated < count;
    if (!is_paired && stated != count) {
      return refuse_at(fault, "packed-frame", starts_[place], "frame ", place, " is none of ", count, " bytes");
    }
    if (planes_.size() < count * width_) planes_.resize(static_cast<std::size_t>(count * width_));
    if (is_paired && pairs_.size() < count) pairs_.resize(static_cast<std::size_t>(count));
    uint8_t *plane = planes_.data() + at, *into = is_paired ? pairs_.data() : plane;
    const auto size = static_cast<std::size_t>(frame.size), room = static_cast<std::size_t>(*stated);
    // On its own the decoder would go on with a second frame.
    const bool is_one = ZSTD_findFrameCompressedSize(frame.data, size) == size;
    if (!is_one || ZSTD_decompressDCtx(zstd_.get(), into, room, frame.data, size) != room) {
      return refuse_at(fault, "packed-data", starts_[place], "frame ", place, " is damaged");
    }
    if (is_paired && !detail::unpair(into, *stated, count, plane)) {
      return refuse_at(fault, "packed-pairs", starts_[place], "frame ", place, " holds no pairs");
    }
    return true;
  }

  // The content size that a frame's header states; an empty optional if that header isn't allowed. A frame has at least
  // 14 bytes.
  static std::optional<uint64_t> content_nbytes(Bytes frame) {
    const uint8_t descriptor = frame.data[4];
    if (frame.load<uint32_t>(0) != kZstdMagic || (descriptor & 0x3F) != kDescriptor) return std::nullopt;
    switch (descriptor >> 6) {
      case 0: return frame.data[5];
      case 1: return uint64_t{frame.load<uint16_t>(5)} + 256;
      case 2: return frame.load<uint32_t>(5);
      default: return frame.load<uint64_t>(5);
    }
  }

  // Bytes from `low` to `high` of the decoded chunk: whole elements, and parts of those at the ends.
  void take(uint64_t count, uint64_t low, uint64_t high, uint8_t* out) const {
    while (low < high) {
      const uint64_t first = low / width_, skip = low % width_;
      const uint64_t whole = skip == 0 ? (high - low) / width_ : 0;
      const uint64_t part = whole != 0 ? whole * width_ : std::min(width_ - skip, high - low);
      if (whole != 0) {
        merge(first, whole, count, out);
      } else {
        std::array<uint8_t, 8> element;
        merge(first, 1, count, element.data());
        std::copy_n(element.data() + skip, part, out);
      }
      low += part;
      out += part;
    }
  }

  void merge(uint64_t first, uint64_t some, uint64_t count, uint8_t* out) const {
    const uint8_t* planes = planes_.data() + first;
    switch (width_) {
      case 1: return detail::merge<1>(planes, count, some, is_signed_, out);
      case 2: return detail::merge<2>(planes, count, some, is_signed_, out);
      case 4: return detail::merge<4>(planes, count, some, is_signed_, out);
      default: return detail::merge<8>(planes, count, some, is_signed_, out);
    }
  }

  Bytes stream_;
  uint64_t offset_ = 0;
  uint64_t nbytes_ = 0, width_ = 1, chunk_ = 1;
  bool is_signed_ = false, is_difference_ = false;
  std::optional<Bytes> base_;
  std::vector<uint64_t> starts_;     // of the frames, and the end of the last one
  std::vector<uint8_t> planes_;      // of the decoded chunk
  std::vector<uint8_t> pairs_;       // of one plane
  std::optional<uint64_t> decoded_;  // which chunk is decoded
  std::unique_ptr<ZSTD_DCtx, FreeDecoder> zstd_;
};

#endif

// ---------------------------------------------------------------------------------------------------- tensors' bytes

// Reads bytes of a tensor, packed or not, into the caller's memory. Movable; each thread needs its own.
class TensorReader {
 public:
  // On failure returns an empty optional; `fault` says why. Packed tensors need BLOBSTORE_ZSTD. The tensor's Store must
  // outlive the reader.
  static std::optional<TensorReader> open(const Tensor& tensor, Fault& fault) {
    fault = Fault{};
    TensorReader reader(tensor);
    return reader.open_stream(tensor, fault) ? std::optional<TensorReader>(std::move(reader)) : std::nullopt;
  }

  uint64_t nbytes() const { return nbytes_; }

  // Reads bytes from `start` on, as the element type stores them.
  bool read(uint64_t start, uint64_t nbytes, uint8_t* out, Fault& fault) {
    fault = Fault{};
    if (start > nbytes_ || nbytes > nbytes_ - start) {
      return detail::refuse(fault, "packed-range", offset_, nbytes, " bytes from ", start, " are not inside of ",
                            nbytes_);
    }
#if defined(BLOBSTORE_ZSTD)
    if (packed_) return packed_->read(start_ + start, nbytes, out, fault);
#endif
    if (nbytes != 0) std::memcpy(out, data_ + start, static_cast<std::size_t>(nbytes));
    return true;
  }

#if defined(BLOBSTORE_ZSTD)
  // The stream of its blob, which says whether it needs a base and takes one; null for a tensor that isn't packed.
  Packed* packed() { return packed_ ? &*packed_ : nullptr; }
#endif

#if defined(__cpp_exceptions)
  static TensorReader open(const Tensor& tensor) {
    Fault fault;
    std::optional<TensorReader> reader = open(tensor, fault);
    if (!reader) throw Error(fault);
    return std::move(*reader);
  }

  void read(uint64_t start, uint64_t nbytes, uint8_t* out) {
    Fault fault;
    if (!read(start, nbytes, out, fault)) throw Error(fault);
  }
#endif

 private:
  explicit TensorReader(const Tensor& tensor)
      : data_(tensor.data), offset_(tensor.offset), nbytes_(tensor.nbytes) {}

  bool open_stream(const Tensor& tensor, Fault& fault) {
    if (tensor.codec > kPackedCodec) {
      return detail::refuse(fault, "unknown-codec", offset_, detail::quoted(tensor.name), " is stored with codec ",
                            uint64_t{tensor.codec}, ", unknown here");
    }
    if (!tensor.is_packed()) return true;
#if defined(BLOBSTORE_ZSTD)
    start_ = tensor.unpacked_offset;
    const uint64_t begin = offset_ - start_;  // where the blob begins
    packed_ = Packed::open(tensor.stream, begin, fault);
    if (!packed_) return false;
    if (packed_->nbytes() == tensor.unpacked_nbytes) return true;
    return detail::refuse(fault, "packed-nbytes", begin + 16, "the stream of ", detail::quoted(tensor.key),
                          " stands for ", packed_->nbytes(), " bytes, the index says ", tensor.unpacked_nbytes);
#else
    return detail::refuse(fault, "packed-needs-zstd", offset_, detail::quoted(tensor.name),
                          " is packed: compile with -DBLOBSTORE_ZSTD and link libzstd to read it");
#endif
  }

  const uint8_t* data_;
  uint64_t offset_;  // in the file
  uint64_t nbytes_;
#if defined(BLOBSTORE_ZSTD)
  std::optional<Packed> packed_;
  uint64_t start_ = 0;  // in the unpacked blob
#endif
};

}  // namespace blobstore

#endif  // BLOBSTORE_HPP_
