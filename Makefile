# A thin wrapper around the CMake presets (CMakePresets.json), which experts use directly.
# The program lies at build/release/fathom after `make`.
.PHONY: all demo test install clean

all:
	cmake --preset release
	cmake --build --preset release --target fathom fathom_static fathom_shared

demo:
	./demo.sh

test:
	./test.sh

install: all
	cmake --install build/release $(if $(PREFIX),--prefix $(PREFIX))

clean:
	cmake -E rm -rf build
