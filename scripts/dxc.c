/* dxc.exe DXCOMPILER.DLL FILE...: Microsoft's shader compiler on compute shaders, with the arguments of wgpu's DX12 backend.
   Prints what it refuses and why; exits with the number of files refused, 99 at most. scripts/dxc-check.sh builds it. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <windows.h>

/* COM objects are called by the slot of the method in dxcapi.h's interface. */
typedef struct { void **methods; } Object;
typedef struct { const void *text; SIZE_T size; UINT encoding; } Buffer;
typedef HRESULT(WINAPI *Create)(const GUID *, const GUID *, void **);
typedef HRESULT(WINAPI *Compile)(Object *, const Buffer *, LPCWSTR *, UINT32, void *, const GUID *, void **);
typedef HRESULT(WINAPI *Status)(Object *, HRESULT *);
typedef HRESULT(WINAPI *Errors)(Object *, Object **);
typedef const char *(WINAPI *Pointer)(Object *);
typedef ULONG(WINAPI *Release)(Object *);
enum { RELEASE = 2, COMPILE = 3, STATUS = 3, ERRORS = 5, POINTER = 3 };

static const GUID COMPILER_CLASS = {0x73e22d93, 0xe6ce, 0x47f3, {0xb5, 0xbf, 0xf0, 0x66, 0x4f, 0x39, 0xc1, 0xb0}};
static const GUID COMPILER = {0x228b4687, 0x5a6a, 0x4730, {0x90, 0x0c, 0x97, 0x02, 0xb2, 0x20, 0x3f, 0x54}};
static const GUID RESULT = {0x58346cda, 0xdde7, 0x4497, {0x94, 0x61, 0x6f, 0x87, 0xaf, 0x5e, 0x06, 0x59}};

static void fail(const char *what) {
    fprintf(stderr, "%s\n", what);
    exit(100);
}

/* Whether a file compiles. */
static int compiles(Object *compiler, const char *name) {
    FILE *file = fopen(name, "rb");
    if (!file) fail(name);
    static char text[1 << 20];
    Buffer source = {text, fread(text, 1, sizeof text, file), 65001 /* UTF-8 */};
    fclose(file);
    LPCWSTR arguments[] = {L"-E", L"main", L"-T", L"cs_6_4", L"-HV", L"2018", L"-no-warnings", L"-Ges", L"-enable-16bit-types"};
    Object *result = NULL, *errors = NULL;
    HRESULT status = E_FAIL;
    UINT32 count = sizeof arguments / sizeof *arguments;
    if (FAILED(((Compile)compiler->methods[COMPILE])(compiler, &source, arguments, count, NULL, &RESULT, (void **)&result)))
        fail("the compiler cannot be called");
    ((Status)result->methods[STATUS])(result, &status);
    if (FAILED(status)) {
        ((Errors)result->methods[ERRORS])(result, &errors);
        printf("%s:\n%s\n", name, errors ? ((Pointer)errors->methods[POINTER])(errors) : "refused without a reason");
    }
    if (errors) ((Release)errors->methods[RELEASE])(errors);
    ((Release)result->methods[RELEASE])(result);
    return SUCCEEDED(status);
}

int main(int count, char **arguments) {
    HMODULE library = count > 1 ? LoadLibraryA(arguments[1]) : NULL;
    if (!library) fail("dxcompiler.dll does not load");
    Create create = (Create)(void *)GetProcAddress(library, "DxcCreateInstance");
    Object *compiler = NULL;
    if (!create || FAILED(create(&COMPILER_CLASS, &COMPILER, (void **)&compiler))) fail("no IDxcCompiler3");
    int refused = 0;
    for (int i = 2; i < count; i++) refused += !compiles(compiler, arguments[i]);
    return refused > 99 ? 99 : refused;
}
