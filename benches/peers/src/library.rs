//! C libraries, loaded at run time: whoever hasn't got them can build and run the rest.

use std::ffi::{CStr, c_void};

/// Opens a library; the error says why it isn't there.
pub fn open(name: &CStr) -> Result<*mut c_void, String> {
    // SAFETY: the name ends with 0. The libraries' initialisers do nothing but initialise.
    let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) };
    match library.is_null() {
        true => Err(last_error()),
        false => Ok(library),
    }
}

/// Finds a function in the first library that has it.
pub fn symbol(libraries: &[*mut c_void], name: &CStr) -> Result<*mut c_void, String> {
    for &library in libraries {
        // SAFETY: the library is open and stays so.
        let address = unsafe { libc::dlsym(library, name.as_ptr()) };
        if !address.is_null() {
            return Ok(address);
        }
    }
    Err(last_error())
}

fn last_error() -> String {
    // SAFETY: what is returned is valid until the next call of this thread.
    unsafe {
        let text = libc::dlerror();
        match text.is_null() {
            true => "no reason given".to_owned(),
            false => CStr::from_ptr(text).to_string_lossy().into_owned(),
        }
    }
}

/// Declares a structure with a C library's functions, and `load`, which finds them.
#[macro_export]
macro_rules! library {
    (
        $name:ident from $($file:literal),+ {
            $($function:ident: fn($($argument:ty),* $(,)?) $(-> $result:ty)?;)*
        }
    ) => {
        #[derive(Clone, Copy)]
        struct $name {
            $($function: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        impl $name {
            fn load() -> Result<$name, $crate::run::Absence> {
                Self::find().map_err($crate::run::Absence::Missing)
            }

            fn find() -> Result<$name, String> {
                let libraries = [$($crate::library::open($file)?),+];
                Ok($name {
                    $($function: {
                        let name = std::ffi::CString::new(stringify!($function))
                            .map_err(|error| error.to_string())?;
                        let address = $crate::library::symbol(&libraries, &name)?;
                        // SAFETY: the library's headers give the function this signature.
                        unsafe {
                            std::mem::transmute::<
                                *mut std::ffi::c_void,
                                unsafe extern "C" fn($($argument),*) $(-> $result)?,
                            >(address)
                        }
                    },)*
                })
            }
        }
    };
}
