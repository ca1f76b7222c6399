# find_package(sparse_run) gives the targets sparse_run::shared and sparse_run::static.
get_filename_component(_sparse_run_prefix "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
find_package(Threads REQUIRED)

if(NOT TARGET sparse_run::shared)
    add_library(sparse_run::shared SHARED IMPORTED)
    set_target_properties(sparse_run::shared PROPERTIES
        IMPORTED_LOCATION "${_sparse_run_prefix}/lib/libsparse_run.so"
        INTERFACE_INCLUDE_DIRECTORIES "${_sparse_run_prefix}/include")
    add_library(sparse_run::static STATIC IMPORTED)
    set_target_properties(sparse_run::static PROPERTIES
        IMPORTED_LOCATION "${_sparse_run_prefix}/lib/libsparse_run.a"
        INTERFACE_INCLUDE_DIRECTORIES "${_sparse_run_prefix}/include"
        INTERFACE_LINK_LIBRARIES "Threads::Threads;${CMAKE_DL_LIBS};m")
endif()
