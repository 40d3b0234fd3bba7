# The version is in the header. Before 1.0 a version fits those of the same minor number; from then on, those of the same
# major number.

file(STRINGS "${CMAKE_CURRENT_LIST_DIR}/../blobstore.hpp" _blobstore_line REGEX "^#define BLOBSTORE_VERSION ")
string(REGEX REPLACE ".*\"([0-9.]+)[^\"]*\".*" "\\1" PACKAGE_VERSION "${_blobstore_line}")
string(REGEX MATCH "^(0\\.)?[0-9]+" _blobstore_series "${PACKAGE_VERSION}")
string(REGEX MATCH "^(0\\.)?[0-9]+" _blobstore_wanted "${PACKAGE_FIND_VERSION}")

set(PACKAGE_VERSION_EXACT FALSE)
set(PACKAGE_VERSION_COMPATIBLE FALSE)
if(PACKAGE_VERSION VERSION_EQUAL PACKAGE_FIND_VERSION)
  set(PACKAGE_VERSION_EXACT TRUE)
endif()
if(_blobstore_series STREQUAL _blobstore_wanted AND NOT PACKAGE_VERSION VERSION_LESS PACKAGE_FIND_VERSION)
  set(PACKAGE_VERSION_COMPATIBLE TRUE)
endif()

unset(_blobstore_line)
unset(_blobstore_series)
unset(_blobstore_wanted)
