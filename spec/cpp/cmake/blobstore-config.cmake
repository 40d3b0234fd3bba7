# find_package(blobstore): the target blobstore::blobstore has the folder of blobstore.hpp, and asks for C++17.
# find_package(blobstore COMPONENTS zstd): blobstore::zstd also reads packed tensors, and links libzstd.

get_filename_component(_blobstore_include "${CMAKE_CURRENT_LIST_DIR}/.." ABSOLUTE)

if(NOT TARGET blobstore::blobstore)
  add_library(blobstore::blobstore INTERFACE IMPORTED)
  set_target_properties(blobstore::blobstore PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES "${_blobstore_include}"
    INTERFACE_COMPILE_FEATURES cxx_std_17)
endif()

foreach(_blobstore_component IN LISTS blobstore_FIND_COMPONENTS)
  set(blobstore_${_blobstore_component}_FOUND FALSE)
  if(_blobstore_component STREQUAL "zstd")
    find_path(blobstore_ZSTD_INCLUDE_DIR zstd.h)
    find_library(blobstore_ZSTD_LIBRARY zstd)
    mark_as_advanced(blobstore_ZSTD_INCLUDE_DIR blobstore_ZSTD_LIBRARY)
    if(blobstore_ZSTD_INCLUDE_DIR AND blobstore_ZSTD_LIBRARY)
      set(blobstore_zstd_FOUND TRUE)
      if(NOT TARGET blobstore::zstd)
        add_library(blobstore::zstd INTERFACE IMPORTED)
        set_target_properties(blobstore::zstd PROPERTIES
          INTERFACE_COMPILE_DEFINITIONS BLOBSTORE_ZSTD
          INTERFACE_INCLUDE_DIRECTORIES "${blobstore_ZSTD_INCLUDE_DIR}"
          INTERFACE_LINK_LIBRARIES "blobstore::blobstore;${blobstore_ZSTD_LIBRARY}")
      endif()
    endif()
  endif()
  if(blobstore_FIND_REQUIRED_${_blobstore_component} AND NOT blobstore_${_blobstore_component}_FOUND)
    set(blobstore_FOUND FALSE)
    set(blobstore_NOT_FOUND_MESSAGE "there is no component ${_blobstore_component}, or a library that it needs")
  endif()
endforeach()

unset(_blobstore_component)
unset(_blobstore_include)
