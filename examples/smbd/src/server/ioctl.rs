//! IOCTL ([MS-SMB2] 3.3.5.15).

use super::Connection;
use super::error::Outcome;
use super::open::Object;
use super::reply::Reply;
use super::request::Request;
use crate::wire::Put;
use crate::wire::ioctl::{self, Ioctl, fsctl};
use crate::wire::status::Status;

impl Connection {
    /// IOCTL
    pub(super) async fn ioctl(&self, request: &Request<'_>, reply: &mut Reply<'_>) -> Outcome {
        let ioctl = Ioctl::parse(request.message)?;
        let max_output = ioctl.max_output as usize;
        if ioctl.input.len().max(max_output) > request.max_size() {
            return Err(Status::INVALID_PARAMETER.into());
        }
        // The charge pays for what is sent; clients pay for MaxOutputResponse
        // only as far as they expect output.
        request.check_payload(ioctl.input.len())?;
        if !ioctl.is_fsctl {
            return Err(Status::NOT_SUPPORTED.into());
        }
        let session = self.session(request.session_id)?;
        session.tree(request.tree_id)?;
        let mut status = Status::SUCCESS;
        let output = match ioctl.code {
            fsctl::VALIDATE_NEGOTIATE_INFO => self.validate_negotiate(ioctl.input, max_output)?,
            // There is no DFS here (3.3.5.15.2).
            fsctl::DFS_GET_REFERRALS | fsctl::DFS_GET_REFERRALS_EX => {
                return Err(Status::FS_DRIVER_REQUIRED.into());
            }
            // Its pipes are always there to be opened.
            fsctl::PIPE_WAIT => Vec::new(),
            _ => {
                let (output, more) = self.file_ioctl(request, &ioctl, reply)?;
                if more {
                    status = Status::BUFFER_OVERFLOW;
                }
                output
            }
        };
        let file_id = reply.file_id.unwrap_or(ioctl.file_id);
        reply.check_room(output.len())?;
        ioctl::put_ioctl(reply.out, ioctl.code, file_id, &output);
        Ok(status)
    }

    /// Codes that concern an open: the output, and whether it has been cut.
    fn file_ioctl(
        &self,
        request: &Request<'_>,
        ioctl: &Ioctl<'_>,
        reply: &mut Reply<'_>,
    ) -> Result<(Vec<u8>, bool), Status> {
        let id = request.file(ioctl.file_id);
        reply.file_id = Some(id);
        let session = self.session(request.session_id)?;
        let open = session.open(request.tree_id, id)?;
        let max_output = ioctl.max_output as usize;
        let mut output = Vec::new();
        match (&open.object, ioctl.code) {
            (Object::Pipe(pipe), fsctl::PIPE_TRANSCEIVE) => {
                let mut pipe = pipe.borrow_mut();
                pipe.write(ioctl.input, &self.config.rpc_server())
                    .map_err(|_| Status::INVALID_PIPE_STATE)?;
                let more = pipe
                    .read(max_output, &mut output)
                    .ok_or(Status::PIPE_EMPTY)?;
                Ok((output, more))
            }
            (Object::Pipe(pipe), fsctl::PIPE_PEEK) => {
                // FSCTL_PIPE_PEEK reply ([MS-FSCC] 2.3.46), without data
                const FILE_PIPE_CONNECTED_STATE: u32 = 3;
                if max_output < 16 {
                    return Err(Status::BUFFER_TOO_SMALL);
                }
                let (all, first) = pipe.borrow().waiting();
                output.put_u32(FILE_PIPE_CONNECTED_STATE);
                output.put_u32(all as u32);
                output.put_u32(u32::from(first > 0));
                output.put_u32(first as u32);
                Ok((output, false))
            }
            (Object::Disk(_), fsctl::GET_REPARSE_POINT) => Err(Status::NOT_A_REPARSE_POINT),
            (Object::Disk(_), fsctl::GET_COMPRESSION) => {
                if max_output < 2 {
                    return Err(Status::INVALID_PARAMETER);
                }
                output.put_u16(0); // COMPRESSION_FORMAT_NONE
                Ok((output, false))
            }
            _ => Err(Status::INVALID_DEVICE_REQUEST),
        }
    }
}
